"""Functions that stay finite in float32 wherever an optimiser may wander, and indices that stay in range."""

from __future__ import annotations

from torch import Tensor

from targets.base import Noise


def pick(n: int, count: int, noise: Noise) -> Tensor:
    """Indices 0 .. count - 1, uniform and with replacement, [n].

    Clamped: u * count may be rounded up to ``count``.
    """
    return (noise.uniform(n) * count).long().clamp(max=count - 1)


def bounded_exp(x: Tensor, limit: float = 50.0) -> Tensor:
    """exp(x), continued by its tangent beyond ``limit``: exp(limit) (1 + x - limit).

    Continuously differentiable, so that densities with exp of a log scale have finite values and scores everywhere;
    a target uses it only where its own mass beyond ``limit`` is nil.
    """
    bounded = x.clamp(max=limit)
    return bounded.exp() * (1 + x - bounded)


def bounded_exp_slope(x: Tensor, limit: float = 50.0) -> Tensor:
    """Derivative of ``bounded_exp``."""
    return x.clamp(max=limit).exp()
