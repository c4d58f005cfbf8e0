"""The "Log-ML" of the KPG and AISIVI tables: reference draws under a coordinate-wise kernel density of q's draws."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor

from bench.metrics.base import Fitted, Metric, Value
from bench.metrics.reasons import without_truth
from bench.noise import generator
from bench.registry import register
from methods.base import Method
from targets.base import Target

POINTS = 16
"""Neighbouring points that share one window of centres."""
NEGLIGIBLE = 45.0
"""Terms below exp(-45) = 3e-20 of a point's largest are left out: float64 does not feel 60,000 of them."""


def log_ml_kde(reference: Tensor, draws: Tensor, sd: float) -> float:
    """sum_n sum_j log (1 / S) sum_s N(reference_nj; draws_sj, sd^2); [N, d] and [S, d] -> nats.

    In float64, one coordinate at a time: of the sorted centres only those near enough to a point to be felt.
    """
    if bool(draws.isnan().any()):
        return math.nan
    total = sum(
        _column(reference[:, column].double(), draws[:, column].double(), sd) for column in range(reference.shape[1])
    )
    return total - reference.numel() * (math.log(len(draws)) + math.log(sd) + 0.5 * math.log(2 * math.pi))


def _column(points: Tensor, centres: Tensor, sd: float) -> float:
    """sum_n log sum_s exp(-(points_n - centres_s)^2 / (2 sd^2)); [N] and [S]."""
    points, centres = points.sort().values, centres.sort().values
    after = torch.searchsorted(centres, points)
    neighbours = centres[torch.stack((after - 1, after)).clamp(0, len(centres) - 1)]
    nearest = (neighbours - points).abs().amin(0)
    radius = (nearest.square() + 2 * NEGLIGIBLE * sd**2).sqrt() * (1 + 1e-9)  # the nearest one is in, however far
    first = torch.searchsorted(centres, points - radius).split(POINTS)
    last = torch.searchsorted(centres, points + radius, right=True).split(POINTS)
    total = 0.0
    for part, low, high in zip(points.split(POINTS), first, last, strict=True):
        exponent = -0.5 * ((part[:, None] - centres[int(low.min()) : int(high.max())]) / sd).square()
        total += float(torch.logsumexp(exponent, dim=1).sum())
    return total


@register("metric", "log_ml_kde", source="KPG, arXiv:2506.05088, and AISIVI, arXiv:2506.03839 (their code)")
class LogMLKDE(Metric):
    """Log density of 1000 reference draws under a coordinate-wise Gaussian KDE of 60,000 draws of q, sd 0.01.

    The sum over draws AND coordinates of one-dimensional log densities: no joint likelihood and no evidence, and
    blind to every dependence between coordinates (q with its coordinates shuffled scores the same).

    On cond_diffusion_d100 another set of 1000 reference draws changes the value by 350 (standard deviation), far more
    than what separates good methods.  Hence ONE set for all methods and seeds here, on which exact draws as the model
    would reach about 75,450; on average over sets they reach 75,060.  The published tables have a set of their own
    that is not public (exact draws: about 74,564): compare distances from the ceiling, not values.

    Args:
        n: draws of q, the centres S.
        reference: draws standing for p, N.
        sd: bandwidth, in units of x.
    """

    direction: ClassVar[Literal["lower", "higher"]] = "higher"
    unit: ClassVar[str] = "nats"

    def __init__(self, *, n: int = 60_000, reference: int = 1000, sd: float = 0.01) -> None:
        self.n, self.reference, self.sd = n, reference, sd

    def applies(self, method: Method, target: Target) -> str | None:
        return without_truth(target)

    @torch.no_grad()
    def __call__(self, q: Fitted) -> Value:
        reference = q.target.truth(self.reference, generator(0, "log_ml_kde"))  # whatever the run's seed
        return Value(log_ml_kde(reference.to(q.device), q.draws(self.n), self.sd))
