"""Jensen-Shannon divergence between histograms of draws: for any q that can be sampled, implicit ones included."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from bench.metrics.base import Fitted, Metric, Value
from bench.metrics.divergence import js_of_shares
from bench.metrics.reasons import without_truth
from bench.registry import register
from methods.base import Method
from targets.base import Target

Window = tuple[tuple[float, float], tuple[float, float]]


def histogram(x: Tensor, window: Window, bins: int) -> Tensor:
    """Shares of draws [n, 2] in bins x bins cells of ``window`` and, last, outside it -> [bins^2 + 1], float64.

    The outside cell is needed: without it a q that misses the window would be compared by the rest only.
    NaN if any draw is NaN.
    """
    low, high = torch.tensor(window, dtype=torch.float64, device=x.device).T
    unit = (x.double() - low) / (high - low)
    inside = ((unit >= 0) & (unit < 1)).all(1)
    # min() guards against unit * bins being rounded up to bins.
    cell = (unit[inside] * bins).long().clamp(max=bins - 1)
    index = torch.full((len(x),), bins * bins, device=x.device)
    index[inside] = cell[:, 0] * bins + cell[:, 1]
    shares = torch.bincount(index, minlength=bins * bins + 1).double() / len(x)
    return shares * float("nan") if x.isnan().any() else shares


@register("metric", "js_hist", source="Lin 1991 (doi:10.1109/18.61115), on histograms; protocol of this suite")
class JSHist(Metric):
    """Jensen-Shannon divergence between 2-D histograms of n draws of q and of p (nats, at most ln 2; not its root).

    The value depends on n and bins: identical laws give the floor (truth against disjoint truth at the same n), not 0.

    Args:
        n: draws per side.
        bins: cells per axis of ``target.window``; one more cell takes all draws outside.
    """

    unit: ClassVar[str] = "nats"
    floor_is_noise: ClassVar[bool] = False

    def __init__(self, *, n: int = 100_000, bins: int = 64) -> None:
        self.n, self.bins = n, bins

    def applies(self, method: Method, target: Target) -> str | None:
        if target.dim != 2:
            return f"needs a 2-D target, this one has dimension {target.dim}"
        if target.window is None:
            return "the target gives no grid window"
        if target.original() is not target:
            return "the target is reparametrised: its window is not in the coordinates of the draws"
        return without_truth(target)

    @torch.no_grad()
    def __call__(self, q: Fitted) -> Value:
        window = q.target.window
        assert window is not None and len(window) == 2
        truth, other = (histogram(x, window, self.bins) for x in q.truth_pair(self.n))
        return Value(js_of_shares(histogram(q.draws(self.n), window, self.bins), truth), js_of_shares(truth, other))
