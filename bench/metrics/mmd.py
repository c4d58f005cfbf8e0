"""Maximum mean discrepancy between draws of q and of p."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.metrics.base import Fitted, Metric, Value
from bench.metrics.reasons import without_truth
from bench.noise import generator
from bench.registry import register
from methods.base import Method
from targets.base import Target


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j|^2; [n, d], [m, d] -> [n, m]."""
    return (x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T).clamp(min=0)


def median_distance(x: Tensor) -> float:
    """Median of the pairwise Euclidean distances of [n, d]."""
    i, j = torch.triu_indices(len(x), len(x), 1)
    return float(squared_distances(x.double(), x.double())[i, j].median().sqrt())


def mmd2_unbiased(x: Tensor, y: Tensor, bandwidth: float) -> float:
    """Unbiased MMD^2 of [n, d] and [m, d] under k(x, y) = exp(-|x - y|^2 / (2 bandwidth^2)); may be below zero."""
    x, y = x.double(), y.double()
    xx, yy, xy = (squared_distances(a, b).div(-2 * bandwidth**2).exp() for a, b in ((x, x), (y, y), (x, y)))
    n, m = len(x), len(y)
    within = (xx.sum() - xx.trace()) / (n * (n - 1)) + (yy.sum() - yy.trace()) / (m * (m - 1))
    return float(within - 2 * xy.mean())


@register("metric", "mmd", source="Gretton et al. 2012, JMLR 13, eq. 3")
class MMD(Metric):
    """Unbiased squared MMD with a Gaussian kernel whose bandwidth is the median distance between truth draws.

    SQUARED, because the root of an unbiased estimate does not exist when it is negative, and the root of the biased
    one is mostly noise near zero.  Equal laws give values around 0 of either sign; so does the floor (truth against
    disjoint truth at the same n), whose size, not sign, tells the noise.  The bandwidth comes from truth draws with a
    fixed seed, so it is the same for all methods and seeds (exactly so, for a given target).

    Args:
        n: draws per side.
        bandwidth_draws: truth draws behind the median distance.
    """

    def __init__(self, *, n: int = 2000, bandwidth_draws: int = 1000) -> None:
        self.n, self.bandwidth_draws = n, bandwidth_draws

    def applies(self, method: Method, target: Target) -> str | None:
        return without_truth(target)

    @torch.no_grad()
    def __call__(self, q: Fitted) -> Value:
        bandwidth = median_distance(q.target.truth(self.bandwidth_draws, generator("mmd bandwidth")))
        truth, other = q.truth_pair(self.n)
        return Value(
            mmd2_unbiased(q.draws(self.n), truth, bandwidth),
            mmd2_unbiased(other, truth, bandwidth),
        )
