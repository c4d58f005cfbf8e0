"""Divergences between q and p in 1-D and 2-D by sums over a grid: JS, KL(q || p), KL(p || q), in nats.

Both densities become masses of the cells of ``target.window`` plus one cell for everything outside
(``density_grid``).  The sums are lower bounds of the divergences (data processing) up to quadrature error; a q
narrower than a cell is not resolved, and is reported as far from p.

Noise floor: for a semi-implicit q the same divergence between two independent M-draw mixture estimates of THIS q,
the Monte-Carlo part of the value (about twice it, since both sides are noisy).  For an explicit q it is 0.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from bench.metrics.base import Fitted, Metric, Value
from bench.metrics.density_grid import grid_masses, reason_against_grid
from bench.metrics.divergence import js, kl
from bench.registry import register
from methods.base import Method
from targets.base import Target


class GridDivergence(Metric):
    """Base of the three: the protocol is the grid and the mixture size.

    Args:
        n1: cells along x1 (eight times as many for a 1-D target, see ``CELLS_1D``).
        n2: cells along x2.
        mixture: M, draws of z in the mixture density of a semi-implicit q.
    """

    unit: ClassVar[str] = "nats"

    def __init__(self, *, n1: int = 240, n2: int = 480, mixture: int = 8000) -> None:
        self.n1, self.n2, self.mixture = n1, n2, mixture

    def applies(self, method: Method, target: Target) -> str | None:
        return reason_against_grid(method, target)

    @torch.no_grad()
    def __call__(self, q: Fitted) -> Value:
        masses = grid_masses(q, self.n1, self.n2, self.mixture)
        again = masses.log_q_again
        floor = 0.0 if again is None else float(self.divergence(masses.log_q, again))
        return Value(float(self.divergence(masses.log_q, masses.log_p)), floor)

    @staticmethod
    def divergence(log_q: Tensor, log_p: Tensor) -> Tensor:
        raise NotImplementedError


@register("metric", "js_grid", source="Lin 1991 (doi:10.1109/18.61115), on a grid; protocol of this suite")
class JSGrid(GridDivergence):
    """Jensen-Shannon divergence between q and p on a grid (nats, at most ln 2; not its square root)."""

    curve = {"mixture": 2000}

    @staticmethod
    def divergence(log_q: Tensor, log_p: Tensor) -> Tensor:
        return js(log_q, log_p)


@register("metric", "kl_reverse_grid", source="KL(q || p) on a grid; protocol of this suite")
class KLReverseGrid(GridDivergence):
    """KL(q || p) on a grid (nats); infinite if q has mass where p has none."""

    @staticmethod
    def divergence(log_q: Tensor, log_p: Tensor) -> Tensor:
        return kl(log_q, log_p)


@register("metric", "kl_forward_grid", source="KL(p || q) on a grid; protocol of this suite")
class KLForwardGrid(GridDivergence):
    """KL(p || q) on a grid (nats), too large where q is semi-implicit: M draws of z leave q too thin in p's tails.

    The floor compares two such mixtures and does not see this bias.  Prefer ``js_grid``; ``kl_forward_mc`` and
    ``nll_target_draws`` take more draws of z, and are what papers print.
    """

    @staticmethod
    def divergence(log_q: Tensor, log_p: Tensor) -> Tensor:
        return kl(log_p, log_q)
