"""log q at given points: exact for explicit families, else of the mixture over M draws of z, in constant memory."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from bench.metrics.base import Fitted
from bench.metrics.density_grid import log_mixture
from targets.base import Unsupported

ROWS, COLUMNS = 64, 4096
"""Block of points x components: a few arrays of 64 x 4096 float32 stay in a core's second-level cache."""
MOST_COORDINATES = 8
"""Above, the pass over coordinates costs more than the general way."""
POINTS_PER_CHUNK = 16384
SMALLEST_SUM = 1e-25
"""A sum of densities below this is computed again in the log domain."""


@torch.no_grad()
def log_q(q: Fitted, x: Tensor, latents: int, purpose: str) -> Tensor:
    """log q at x [n, d] -> [n], float64 (nats).

    Args:
        q: a fitted q with a density, or with mixing and conditional.
        x: points.
        latents: M, draws of z of a semi-implicit q; not used where q has a density.
        purpose: names the random stream of z.

    Raises:
        Unsupported: q is implicit.
    """
    exact = [q.method.log_prob(part.to(q.dtype)) for part in x.split(POINTS_PER_CHUNK)]
    if all(part is not None for part in exact):
        return torch.cat([part.double() for part in exact if part is not None])
    z = q.method.mixing(latents, q.noise(purpose))
    if z is None:
        raise Unsupported("q is implicit: it gives neither log_prob nor mixing and conditional")
    return log_mixture_density(q.method.conditional(z), x.to(z.dtype))


def log_mixture_density(conditional: Distribution, x: Tensor) -> Tensor:
    """log of mean_m q(x | z_m) for a conditional with batch shape [M]; [n, d] -> [n], float64."""
    scale = shared_scale(conditional)
    if scale is None or len(scale) > MOST_COORDINATES:
        return log_mixture(conditional, x)
    assert isinstance(conditional, Independent)
    return _gaussian(conditional, scale, x)


def shared_scale(conditional: Distribution) -> Tensor | None:
    """The standard deviations [d] if q(x | z) is a diagonal Gaussian with the same ones for every z, else None."""
    if not (isinstance(conditional, Independent) and isinstance(conditional.base_dist, Normal)):
        return None
    scale = conditional.base_dist.scale
    if scale.dim() != 2 or conditional.reinterpreted_batch_ndims != 1 or not bool((scale == scale[:1]).all()):
        return None
    return scale[0]


def _gaussian(conditional: Independent, scale: Tensor, x: Tensor) -> Tensor:
    """Sums densities (not logs) block by block: three passes per coordinate over arrays that stay in the cache."""
    means = conditional.base_dist.loc
    m, d = means.shape
    centre = means.mean(0)
    points, components = ((y - centre) / (math.sqrt(2) * scale) for y in (x, means))
    columns = [part.contiguous() for part in components.T]
    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for first in range(0, len(x), ROWS):
        rows = points[first : first + ROWS]
        for start in range(0, m, COLUMNS):
            exponent = torch.square(rows[:, :1] - columns[0][start : start + COLUMNS])
            for i in range(1, d):
                difference = rows[:, i : i + 1] - columns[i][start : start + COLUMNS]
                exponent.addcmul_(difference, difference)
            total[first : first + ROWS] += exponent.neg_().exp_().sum(1)
    found = total.log() - math.log(m) - scale.double().log().sum() - d / 2 * math.log(2 * math.pi)
    far = ~(total > SMALLEST_SUM)  # also true of NaN
    if far.any():
        found[far] = log_mixture(conditional, x[far])
    return found
