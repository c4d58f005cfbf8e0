"""log q and log p as cell masses on a fixed grid: what the grid divergences (``grid_divergence``) are computed from.

log q is exact for explicit families.  For a semi-implicit q it is the mixture over M fresh draws of z,

    q_M(x) = (1/M) sum_m q(x | z_m),    z_m ~ q(z),

so no kernel density estimate and no histogram enters, only the Monte-Carlo error of the mixture.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TypeGuard

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from bench.metrics.base import Fitted
from bench.metrics.log_q import exact_log_q
from bench.metrics.mixture import log_mixture
from bench.metrics.reasons import IMPLICIT, implicit
from methods.base import Method
from targets.base import Target, Unsupported

QUADRATURE_ERROR = 0.02
"""Excess of p's mass on the grid over one, or lack of what the window holds, put down to cells cut by a sharp edge."""
CELLS_1D = 8
"""A 1-D target gets n1 times this many cells (n2 plays no part): finer than 2-D grids at a fraction of the points."""
OUTSIDE_MIN = 1e-9
"""Least mass given to the outside cell: 1 - sum(masses) is not known better than this."""


@dataclass(frozen=True)
class GridMasses:
    """Log masses of the grid's cells and, last, of everything outside the window; each [cells + 1], float64, nats.

    ``log_q_again`` is a second, independent mixture estimate of the same q; None where log q is exact.
    """

    log_p: Tensor
    log_q: Tensor
    log_q_again: Tensor | None


def reason_against_grid(method: Method, target: Target) -> str | None:
    """None if log q and log p can be put on a grid, else why not."""
    if target.dim not in (1, 2):
        return f"needs a 1-D or 2-D target, this one has dimension {target.dim}"
    if target.window is None:
        return "the target gives no grid window"
    if target.log_z is None or "log_prob" not in target.provides:
        return "the target's normalised density is not known: it has no log_z (0.0 if log_prob is normalised)"
    return implicit(method)


@torch.no_grad()
def grid_masses(q: Fitted, n1: int, n2: int, mixture: int) -> GridMasses:
    """Cell masses of p and q (density at the cell centre times the cell's area) over ``target.window``.

    On a reparametrised target both densities are those of the coordinates that are fitted: divergences do not change
    under a bijection.

    Args:
        q: the fitted q; the result is kept in its cache, so that several metrics share it.
        n1: cells along x1.
        n2: cells along x2.
        mixture: M, draws of z behind log q of a semi-implicit family (not used by explicit ones).

    Raises:
        Unsupported: q gives neither a density nor the pieces of a mixture, or p's mass on the grid exceeds one or is
            less than the target's window holds.
    """
    key = ("grid_masses", n1, n2, mixture)
    if key not in q.cache:
        q.cache[key] = _grid_masses(q, n1, n2, mixture)
    return q.cache[key]


def _grid_masses(q: Fitted, n1: int, n2: int, mixture: int) -> GridMasses:
    assert q.target.window is not None and q.target.log_z is not None
    cells = (n1, n2) if q.target.dim == 2 else (CELLS_1D * n1,)
    grid = [_centres(bounds, n, q.device) for bounds, n in zip(q.target.window, cells, strict=True)]
    axes = [axis for axis, _ in grid]
    log_area = math.log(math.prod(step for _, step in grid))
    points = torch.cartesian_prod(*axes).reshape(-1, len(axes))
    # In float64: the mass outside the window is a difference of nearly equal numbers.
    log_p = copy.deepcopy(q.target).double().log_prob(points) - q.target.log_z
    total = float((log_p + log_area).exp().sum())
    if not q.target.window_mass - QUADRATURE_ERROR <= total <= 1 + QUADRATURE_ERROR:
        raise Unsupported(
            f"p's mass on the grid is {total:.4g} and should be at least {q.target.window_mass:g} (window_mass): log_z "
            "is wrong, the window too small, or the cells are too coarse for p"
        )
    log_q = exact_log_q(q, points)
    again = None
    if log_q is None:
        log_q = _mixture(q, axes, points, mixture, "grid")
        again = log_masses(_mixture(q, axes, points, mixture, "grid again"), log_area)
    return GridMasses(log_masses(log_p, log_area), log_masses(log_q, log_area), again)


def _centres(bounds: tuple[float, float], n: int, device: torch.device | str) -> tuple[Tensor, float]:
    step = (bounds[1] - bounds[0]) / n
    return bounds[0] + step * (torch.arange(n, device=device, dtype=torch.float64) + 0.5), step


def log_masses(log_density: Tensor, log_area: float) -> Tensor:
    """[n] log densities at cell centres -> [n + 1] log masses that sum to one; the last cell is the outside.

    A grid sum above one (quadrature error, or a q narrower than a cell) is scaled back to one.
    """
    inside = log_density.double() + log_area
    total = torch.logsumexp(inside, 0)
    outside = (1 - total.exp()).clamp(min=OUTSIDE_MIN).log()
    return torch.cat([inside - total.clamp(min=0), outside[None]])


def _mixture(q: Fitted, axes: list[Tensor], points: Tensor, mixture: int, purpose: str) -> Tensor:
    z = q.method.mixing(mixture, q.noise(purpose))
    if z is None:
        raise Unsupported(IMPLICIT)
    conditional = q.method.conditional(z)
    if is_separable(conditional):
        return separable_log_mixture(conditional, *axes).flatten()
    return log_mixture(conditional, points.to(z.dtype))


def is_separable(conditional: Distribution) -> TypeGuard[Independent]:
    """Whether q(x1, x2 | z) = q(x1 | z) q(x2 | z), written as ``Independent(..., 1)``, such as a diagonal Gaussian."""
    return (
        isinstance(conditional, Independent) and len(conditional.batch_shape) == 1 and conditional.event_shape == (2,)
    )


def separable_log_mixture(conditional: Independent, axis1: Tensor, axis2: Tensor) -> Tensor:
    """log of mean_m q(x1 | z_m) q(x2 | z_m) on a product grid: [n1], [n2] -> [n1, n2], as one matrix product.

    Densities, not logs, are summed, in float64: a Gaussian one underflows beyond 37 standard deviations.  Where all
    components do, log q is set to the log of the smallest float64 (-708), which only KL(p || q) can see.
    """
    marginals = conditional.base_dist
    density1, density2 = (
        marginals.log_prob(axis.double()[:, None, None].expand(-1, 1, 2))[..., i].exp()
        for i, axis in enumerate((axis1, axis2))
    )
    density = density1 @ density2.T / density1.shape[1]
    return density.clamp(min=torch.finfo(torch.float64).tiny).log()
