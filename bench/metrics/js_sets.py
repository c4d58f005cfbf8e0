"""Jensen-Shannon divergence to a 2-D sample set: histograms on a box that a fixed true sample defines."""

from __future__ import annotations

from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from bench.metrics.base import Fitted, Metric, Value
from bench.metrics.divergence import js_of_shares
from bench.metrics.js_hist import Window, histogram
from bench.metrics.reasons import without_truth
from bench.noise import generator
from bench.registry import register
from methods.base import Method
from targets.base import Target


def quantile_box(x: Tensor, tail: float, margin: float) -> Window:
    """Per axis the ``tail`` and 1 - ``tail`` quantiles of [n, 2], each moved out by ``margin`` of their distance."""
    levels = torch.tensor([tail, 1 - tail], dtype=torch.float64)
    low, high = torch.quantile(x.double(), levels, dim=0)
    slack = margin * (high - low)
    (x1, y1), (x2, y2) = (low - slack).tolist(), (high + slack).tolist()
    return (x1, x2), (y1, y2)


@register("metric", "js_sets", source="Lin 1991 (doi:10.1109/18.61115), on histograms; protocol of this suite")
class JSSets(Metric):
    """Jensen-Shannon divergence between 2-D histograms of 100,000 draws of q and of one fixed sample of p (nats).

    The box is the range from the .0002 to the .9998 quantile of that sample, 5 % wider on each side, cut into 64 x 64
    cells; one more cell takes the draws outside.  The sample is the same for every method and seed.  The floor is
    the value of a second fixed sample of p: identical laws give the floor, not 0.  Not comparable with any value
    printed elsewhere, such as the four attributed to HSIVI, whose sets, bins and sample sizes are unknown.

    Args:
        n: draws per side.
        bins: cells per axis.
        tail: share of the true sample beyond each side of the box before it is widened.
        margin: widening on each side, as a share of the range.
    """

    unit: ClassVar[str] = "nats"
    curve = {"n": 20_000}
    floor_is_noise: ClassVar[bool] = False

    def __init__(self, *, n: int = 100_000, bins: int = 64, tail: float = 0.0002, margin: float = 0.05) -> None:
        self.n, self.bins, self.tail, self.margin = n, bins, tail, margin

    def applies(self, method: Method, target: Target) -> str | None:
        if target.dim != 2:
            return f"needs a 2-D target, this one has dimension {target.dim}"
        return without_truth(target)

    @torch.no_grad()
    def __call__(self, q: Fitted) -> Value:
        box, truth, floor = _reference(q.target, self.n, self.bins, self.tail, self.margin)
        return Value(js_of_shares(histogram(q.draws(self.n), box, self.bins), truth), floor)


@lru_cache(maxsize=16)
def _reference(target: Target, n: int, bins: int, tail: float, margin: float) -> tuple[Window, Tensor, float]:
    """The box, the shares of the fixed true sample in its cells, and the floor; the same for all seeds of a run."""
    both = target.truth(2 * n, generator("js_sets", "truth"))
    box = quantile_box(both[:n], tail, margin)
    truth, other = (histogram(part, box, bins) for part in (both[:n], both[n:]))
    return box, truth, js_of_shares(truth, other)
