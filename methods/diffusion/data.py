"""Data points for methods that train a diffusion on samples: training images, or draws of the target kept once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.noise import generator
from methods.base import Noise
from targets.base import Target
from targets.images.base import ImageTarget
from targets.numerics import pick


class TrainingRows(nn.Module):
    """x_0 drawn with replacement from the training images, or from ``count`` draws of the target (equal for all seeds).

    Args:
        target: images, or a target with exact or reference draws.
        count: how many draws are kept of a target that is no set of images.
    """

    rows: Tensor

    def __init__(self, target: Target, count: int) -> None:
        super().__init__()
        self.images = target if isinstance(target, ImageTarget) else None
        stored = torch.empty(0) if self.images else target.truth(count, generator("training rows"))
        self.register_buffer("rows", stored)

    @property
    def levels(self) -> int | None:
        """Values a coordinate can take, between -1 and 1; None for continuous ones."""
        return self.images.levels if self.images else None

    def draw(self, n: int, noise: Noise) -> Tensor:
        """n rows, [n, d]."""
        count = len(self.images.pixels) if self.images else len(self.rows)
        index = pick(n, count, noise)
        return self.images.images(index) if self.images else self.rows[index]


def spread(n: int, noise: Noise) -> Tensor:
    """n stratified uniforms (u + i / n) mod 1 with one u: the low-discrepancy times of VDM; [n]."""
    u = noise.uniform(1)
    return (u + torch.arange(n, device=u.device, dtype=u.dtype) / n) % 1.0
