"""log q at given points: exact for explicit families, else of the mixture over M draws of z, in constant memory."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.metrics.base import Fitted
from bench.metrics.mixture import log_mixture_density
from bench.metrics.reasons import IMPLICIT
from targets.base import Unsupported

POINTS_PER_CHUNK = 16384


@torch.no_grad()
def exact_log_q(q: Fitted, x: Tensor) -> Tensor | None:
    """log q at x [n, d] -> [n], float64 (nats), of a q with a density; None for the others."""
    parts = []
    for chunk in x.split(POINTS_PER_CHUNK):
        part = q.method.log_prob(chunk.to(q.dtype))
        if part is None:
            return None
        parts.append(part.double())
    return torch.cat(parts)


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
    exact = exact_log_q(q, x)
    if exact is not None:
        return exact
    z = q.method.mixing(latents, q.noise(purpose))
    if z is None:
        raise Unsupported(IMPLICIT)
    return log_mixture_density(q.method.conditional(z), x.to(z.dtype))
