"""The "Log-ML" of the KPG and AISIVI tables: reference draws under a coordinate-wise kernel density of q's draws."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor

from bench.metrics.base import Fitted, Metric, Value
from bench.noise import generator
from bench.registry import register
from methods.base import Method
from targets.base import Target

CHUNK = 2**19
"""Largest number of kernel values held at once: they fit into a core's cache."""


def log_ml_kde(reference: Tensor, draws: Tensor, sd: float) -> float:
    """sum_n sum_j log (1 / S) sum_s N(reference_nj; draws_sj, sd^2); [N, d] and [S, d] -> nats.

    In float64, one coordinate at a time: about half a second per coordinate of the published size on one CPU core.
    """
    total = 0.0
    for column in range(reference.shape[1]):
        centres, points = draws[:, column].double(), reference[:, column].double()
        for part in points.split(max(1, CHUNK // len(centres))):
            exponent = -0.5 * ((part[:, None] - centres) / sd).square()
            total += float(torch.logsumexp(exponent, dim=1).sum())
    return total - reference.numel() * (math.log(len(draws)) + math.log(sd) + 0.5 * math.log(2 * math.pi))


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
        return None if "truth" in target.provides else "the target has neither exact nor reference draws"

    @torch.no_grad()
    def __call__(self, q: Fitted) -> Value:
        reference = q.target.truth(self.reference, generator(0, "log_ml_kde"))  # whatever the run's seed
        return Value(log_ml_kde(reference.to(q.device), q.draws(self.n), self.sd))
