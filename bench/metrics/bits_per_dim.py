"""Bits per dimension: a bound on the negative log-likelihood of data, for methods that have one."""

from __future__ import annotations

import math
from typing import ClassVar

import torch

from bench.metrics.base import Fitted, Metric, Value
from bench.metrics.reasons import without_truth
from bench.registry import register
from methods.base import Method
from targets.base import Target
from targets.images.base import ImageTarget


@register("metric", "bits_per_dim", source="Kingma et al., NeurIPS 2021, arXiv:2107.00630; protocol of this suite")
class BitsPerDim(Metric):
    """Mean of the method's bound on -log q(x) over held-out images (or draws of p), in bits per coordinate.

    Of discrete pixels the bound is on a probability (17 levels for the 8 x 8 digits, 256 else), of continuous data on a
    density.  ``error`` is the standard error over images.

    Args:
        repeats: independent estimates per image.
        n: draws of p, for targets that are no images.
    """

    unit: ClassVar[str] = "bits"

    def __init__(self, *, repeats: int = 20, n: int = 1000) -> None:
        self.repeats, self.n = repeats, n

    def applies(self, method: Method, target: Target) -> str | None:
        if type(method).nll_bound is Method.nll_bound:
            return "the method has no bound on its likelihood"
        return without_truth(target)

    @torch.no_grad()
    def __call__(self, q: Fitted) -> Value:
        x = q.target.test_images().to(q.device) if isinstance(q.target, ImageTarget) else q.truth(self.n)
        noise = q.noise("bits per dim")
        bounds = []
        for _ in range(self.repeats):
            found = q.method.nll_bound(x, noise)
            assert found is not None
            bounds.append(found.double())
        per_row = torch.stack(bounds).mean(0) / (x.shape[1] * math.log(2))
        return Value(float(per_row.mean()), None, float(per_row.std() / math.sqrt(len(per_row))))
