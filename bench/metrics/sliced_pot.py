"""The sliced Wasserstein distance of Lim & Johansen 2024: the defaults of the POT library at 10,000 draws."""

from __future__ import annotations

from statistics import fmean
from typing import ClassVar

import torch

from bench.metrics.base import Fitted, Metric, Value
from bench.metrics.reasons import without_truth
from bench.metrics.sliced import directions, sliced_wasserstein
from bench.registry import register
from methods.base import Method
from targets.base import Target


@register("metric", "sliced_w_pot", source="Lim & Johansen 2024, arXiv:2407.00649, Table 1")
class SlicedWassersteinPOT(Metric):
    """Sliced Wasserstein distance of order 2, 10,000 against 10,000 draws, 100 fresh projections, mean of 10.

    The paper's script calls POT's ``sliced_wasserstein_distance`` without an order, and its default is 2.  Unlike
    ``sliced_w2``, the directions are drawn anew in every comparison.  The floor is the same for truth against truth.

    Args:
        n: draws per side of one comparison.
        projections: directions of one comparison.
        repeats: comparisons averaged.
    """

    published_as: ClassVar[tuple[tuple[str, str], ...]] = (("sliced_wd", "swd-pot-10k"),)
    floor_is_noise: ClassVar[bool] = False

    def __init__(self, *, n: int = 10_000, projections: int = 100, repeats: int = 10) -> None:
        self.n, self.projections, self.repeats = n, projections, repeats

    def applies(self, method: Method, target: Target) -> str | None:
        return without_truth(target)

    @torch.no_grad()
    def __call__(self, q: Fitted) -> Value:
        values, floors = [], []
        for repeat in range(self.repeats):
            along = directions(q.target.dim, self.projections, repeat)
            truth, other = q.truth(2 * self.n, f"pot truth {repeat}").split(self.n)
            values.append(sliced_wasserstein(q.draws(self.n, f"pot q {repeat}"), truth, along, 2))
            floors.append(sliced_wasserstein(other, truth, along, 2))
        return Value(fmean(values), fmean(floors))
