"""log of a mixture of many components at many points: 10^10 pairs, so diagonal Gaussians have a way of their own."""

from __future__ import annotations

import ctypes
import math
from pathlib import Path

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from bench.native import Library

ROWS, COLUMNS = 64, 4096
"""Block of points x components: a few arrays of 64 x 4096 float32 stay in a core's second-level cache."""
PAIRS_PER_CHUNK = 4_000_000
MOST_COORDINATES = 7
"""Above, the pass over coordinates costs more than the general way."""
SMALLEST_SUM = 1e-25
"""A sum below this, relative to the highest peak of a component, is computed again in the log domain."""

_INT64, _POINTER = ctypes.c_int64, ctypes.c_void_p
LIBRARY = Library(
    "mixture",
    "the fused sum over a mixture",
    Path(__file__).with_name("mixture.cpp"),
    headers=(),
    functions={"sivibench_mixture": [*[_INT64] * 3, *[_POINTER] * 5]},
)


def log_mixture(conditional: Distribution, points: Tensor) -> Tensor:
    """log of mean_m q(x | z_m) for any conditional with batch shape [M]: [n, d] -> [n], in chunks of points."""
    (m,) = conditional.batch_shape
    parts = [
        torch.logsumexp(conditional.log_prob(chunk[:, None, :]).double(), 1)
        for chunk in points.split(max(1, PAIRS_PER_CHUNK // m))
    ]
    return torch.cat(parts) - math.log(m)


def log_mixture_density(conditional: Distribution, x: Tensor) -> Tensor:
    """log of mean_m q(x | z_m) for a conditional with batch shape [M]; [n, d] -> [n], float64 (nats)."""
    found = diagonal(conditional)
    if found is None or x.shape[1] > MOST_COORDINATES:
        return log_mixture(conditional, x)
    means, scales = found
    log_peaks = -scales.double().log().sum(1)
    if means.device.type == "cpu" and means.dtype == torch.float32 and LIBRARY.get() is not None:
        total = _fused(means, scales, log_peaks, x)
    elif bool((scales == scales[:1]).all()):
        total = _plain(means, scales[0], x)
    else:
        return log_mixture(conditional, x)
    log_q = total.log() - math.log(len(means)) + log_peaks.max() - x.shape[1] / 2 * math.log(2 * math.pi)
    far = ~(total > SMALLEST_SUM)  # also true of NaN
    if far.any():
        log_q[far] = log_mixture(conditional, x[far])
    return log_q


def diagonal(conditional: Distribution) -> tuple[Tensor, Tensor] | None:
    """Means and standard deviations [M, d] if q(x | z) is a diagonal Gaussian with finite ones, else None."""
    if not (isinstance(conditional, Independent) and isinstance(conditional.base_dist, Normal)):
        return None
    means, scales = conditional.base_dist.loc, conditional.base_dist.scale
    if scales.dim() != 2 or conditional.reinterpreted_batch_ndims != 1:
        return None
    return (means, scales) if bool(means.isfinite().all() and scales.isfinite().all()) else None


def _fused(means: Tensor, scales: Tensor, log_peaks: Tensor, x: Tensor) -> Tensor:
    """Sum of densities relative to the highest peak, [n], float64."""
    library = LIBRARY.get()
    assert library is not None, "callers ask for it first"
    (n, d), m, centre = x.shape, len(means), means.mean(0)
    points, centres = (x - centre).float().contiguous(), (means - centre).T.contiguous()
    rates = (math.sqrt(0.5 * math.log2(math.e)) / scales).T.contiguous()
    peaks = ((log_peaks - log_peaks.max()) * math.log2(math.e)).float()
    total = torch.empty(n, dtype=torch.float64)
    if library.sivibench_mixture(n, m, d, *(t.data_ptr() for t in (points, centres, rates, peaks, total))):
        raise ValueError(f"no fused sum for {d} coordinates")
    return total


def _plain(means: Tensor, scale: Tensor, x: Tensor) -> Tensor:
    """The same in plain torch for one scale [d]: three passes per coordinate over arrays that stay in the cache."""
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
    return total
