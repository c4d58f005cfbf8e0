"""Draws x of a semi-implicit q together with the z behind each."""

from __future__ import annotations

from torch import Tensor

from bench.metrics.reasons import IMPLICIT
from methods.base import Method, Noise
from targets.base import Unsupported


def pairs(method: Method, n: int, noise: Noise) -> tuple[Tensor, Tensor]:
    """n draws (x, z) of a semi-implicit q, [n, d] and [n, k].

    Raises:
        Unsupported: q gives no mixing draws.
    """
    z = method.mixing(n, noise)
    if z is None:
        raise Unsupported(IMPLICIT)
    conditional = method.conditional(z)
    scale = getattr(conditional, "scale_tril", None)
    if scale is not None:
        xi = noise.normal(*conditional.mean.shape)
        return conditional.mean + (scale @ xi.unsqueeze(-1)).squeeze(-1), z
    return conditional.mean + conditional.stddev * noise.normal(*conditional.mean.shape), z
