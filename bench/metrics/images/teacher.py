"""Distance of a few-step sampler to its teacher sampled with many steps: what distillation alone can be blamed for."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import cast

import torch
from torch import Tensor

from bench.digest import digest
from bench.errors import UserError
from bench.features.base import Features, as_bytes
from bench.metrics.base import Fitted
from bench.metrics.images.base import FrechetDistance
from bench.metrics.images.cache import cached
from bench.metrics.images.sets import CHUNK, Reference, Sample, image_shape
from bench.noise import DirectNoise, generator
from bench.registry import register
from methods.base import Method
from methods.diffusion.steps import Steps
from targets.base import Target
from targets.diffusion.eps import EpsTeacher
from targets.diffusion.grids import time_grid
from targets.images.base import ImageTarget


@register("metric", "fd_teacher_digits", source="definition of this suite: FD-digits, the teacher's draws as reference")
class FDTeacherDigits(FrechetDistance):
    """FD-digits between draws of q and as many of the teacher's by DDPM in 100 steps; 0 is a perfect student.

    The teacher is the one of the target.  Its draws are made once and kept in the cache folder.  They end at t = 0 of
    the diffusion, where sigma is still .01, and their last step adds noise of sd .0097 (pixels in [-1, 1]; about one
    level of a byte), whereas the samplers of this suite add none in their last step: a student without that noise is
    not quite at 0.

    Args:
        n: draws of either.
        steps: evaluations of the teacher per draw, at trailing times (100 of 1000 steps: 9, 19, ..., 999).
        eta: of DDIM's steps: 1 is DDPM, 0 deterministic.
        splits: ways of halving the teacher's draws that the floor is averaged over.
    """

    features = "digits"

    def __init__(self, *, n: int = 5000, steps: int = 100, eta: float = 1.0, splits: int = 10) -> None:
        self.n, self.steps, self.eta, self.splits = n, steps, eta, splits

    def applies(self, method: Method, target: Target) -> str | None:
        if (reason := super().applies(method, target)) is not None:
            return reason
        try:
            cast(ImageTarget, target).teacher()
        except UserError as lacking:
            return f"no teacher: {lacking}"
        return None

    def real(self, q: Fitted, network: Features) -> Reference:
        return teacher_reference(q.target, network, q.device, self.n, self.steps, self.eta)


@lru_cache(maxsize=4)
def teacher_reference(
    target: Target, features: Features, device: torch.device | str, n: int, steps: int, eta: float
) -> Reference:
    """Features of n draws of the target's teacher."""
    teacher = cast(ImageTarget, target).teacher().to(device)
    key = {"teacher": digest(teacher.state_dict()), "n": n, "steps": steps, "eta": eta, "shape": image_shape(target)}
    images = cached(key, lambda: {"images": teacher_images(teacher, image_shape(target), n, steps, eta, device)})
    sample = Sample.of(features, images["images"].split(features.batch), device)
    return Reference(sample, hashlib.sha256(images["images"].numpy().tobytes()).hexdigest())


@torch.no_grad()
def teacher_images(
    teacher: EpsTeacher, shape: tuple[int, ...], n: int, steps: int, eta: float, device: torch.device | str
) -> Tensor:
    """n draws by DDIM's steps on the trailing grid, unsigned bytes [n, C, H, W] (CPU)."""
    chain = Steps(time_grid("trailing", steps, teacher.schedule), teacher.schedule, (eta,))
    chunks = []
    for number, start in enumerate(range(0, n, CHUNK)):
        rows, noise = min(CHUNK, n - start), DirectNoise(generator("teacher images", number), device)
        x = noise.normal(rows, teacher.dim)
        for k in range(chain.count, 0, -1):
            x = chain.mean(k, x, teacher.eps(x, chain.times[k])) + chain.sd[k] * noise.normal(rows, teacher.dim)
        chunks.append(as_bytes(x, shape).cpu())
    return torch.cat(chunks)
