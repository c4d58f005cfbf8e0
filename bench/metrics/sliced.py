"""Sliced Wasserstein distances between draws of q and of p."""

from __future__ import annotations

from statistics import fmean
from typing import ClassVar

import torch
from torch import Tensor

from bench.metrics.base import Fitted, Metric, Value
from bench.metrics.reasons import without_truth
from bench.noise import generator
from bench.registry import register
from methods.base import Method
from targets.base import Target


def directions(dim: int, projections: int, seed: int) -> Tensor:
    """Uniform directions on the sphere, [projections, dim]; the same for all methods and seeds of a run."""
    normal = torch.randn(projections, dim, generator=generator(seed, "sliced directions"), dtype=torch.float64)
    return normal / normal.norm(dim=1, keepdim=True)


def sliced_wasserstein(x: Tensor, y: Tensor, along: Tensor, order: int) -> float:
    """SW_p between two sets of n draws [n, d]: (mean over directions of W_p^p)^(1/p).

    In one dimension the optimal plan between equally many points pairs them in order.
    """
    # In float64: a GPU may round float32 products to 10 bits (TF32).
    along = along.to(x.device)
    difference = (x.double() @ along.T).sort(0).values - (y.double() @ along.T).sort(0).values
    return float(difference.abs().pow(order).mean() ** (1 / order))


class SlicedWasserstein(Metric):
    """Base of the two orders: n against n draws, averaged over ``repeats`` comparisons with fresh draws.

    Averaging keeps the bias of the papers' n = 1000 and lowers the noise.  The floor is the same average for truth
    against disjoint truth.  A stored reference is subsampled afresh in each comparison.

    ``order`` is p, set by the subclasses.

    Args:
        n: draws per side of one comparison.
        projections: directions, shared by all comparisons.
        projection_seed: seed of the directions.
        repeats: comparisons averaged.
    """

    order: ClassVar[int]
    floor_is_noise: ClassVar[bool] = False

    def __init__(self, *, n: int = 1000, projections: int = 300, projection_seed: int = 0, repeats: int = 10) -> None:
        self.n, self.projections, self.projection_seed, self.repeats = n, projections, projection_seed, repeats

    def applies(self, method: Method, target: Target) -> str | None:
        return without_truth(target)

    @torch.no_grad()
    def __call__(self, q: Fitted) -> Value:
        along = directions(q.target.dim, self.projections, self.projection_seed)
        values, floors = [], []
        for repeat in range(self.repeats):
            x = q.draws(self.n, f"q {repeat}")
            # One draw of 2n rows, split: disjoint also where the truth is a stored reference.
            truth, other = q.truth(2 * self.n, f"truth {repeat}").split(self.n)
            values.append(sliced_wasserstein(x, truth, along, self.order))
            floors.append(sliced_wasserstein(other, truth, along, self.order))
        return Value(fmean(values), fmean(floors))


@register("metric", "sliced_w1", source="Bonneel et al. 2015 (doi:10.1007/s10851-014-0506-3), order 1")
class SlicedW1(SlicedWasserstein):
    """Sliced Wasserstein distance of order 1, 1000 against 1000 draws, in units of x."""

    order = 1


@register("metric", "sliced_w2", source="Bonneel et al. 2015 (doi:10.1007/s10851-014-0506-3), order 2")
class SlicedW2(SlicedWasserstein):
    """Sliced Wasserstein distance of order 2 (root of the mean squared W2), 1000 against 1000 draws, in units of x."""

    curve = {"repeats": 1}

    order = 2
