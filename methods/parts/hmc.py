"""Hamiltonian Monte Carlo with a fixed number of steps: no branch, so that it runs inside a traced, batched loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from methods.base import Noise


class Chain(NamedTuple):
    """States of C chains, [C, k], with log density [C] and its gradient [C, k] there."""

    z: Tensor
    log_prob: Tensor
    gradient: Tensor


Density = Callable[[Tensor], Tensor]
"""Unnormalised log density of C independent chains, z [C, k] -> [C]; chain c's value depends on its own row only."""


def start(density: Density, z: Tensor) -> Chain:
    """The chains at z [C, k]."""

    def total(z: Tensor) -> tuple[Tensor, Tensor]:
        log_prob = density(z)
        return log_prob.sum(), log_prob

    gradient, (_, log_prob) = torch.func.grad_and_value(total, has_aux=True)(z)
    return Chain(z, log_prob, gradient)


def transition(density: Density, chain: Chain, step: Tensor, noise: Noise, leapfrog: int) -> tuple[Chain, Tensor]:
    """One HMC transition with unit mass; leaves exp(density) invariant (Neal 2011, arXiv:1206.1901, section 5.3).

    Args:
        step: step size, scalar or [C, 1].
        leapfrog: leapfrog steps.

    Returns:
        The chains after accepting or rejecting, and the acceptance probability of each, [C].  A trajectory that left
        the range of floats is rejected.
    """
    momentum = noise.normal(*chain.z.shape)
    moved, p = chain, momentum
    for _ in range(leapfrog):
        p = p + 0.5 * step * moved.gradient
        moved = start(density, moved.z + step * p)
        p = p + 0.5 * step * moved.gradient
    gain = moved.log_prob - chain.log_prob - 0.5 * (p.square() - momentum.square()).sum(-1)
    accept = torch.nan_to_num(gain, nan=-torch.inf).clamp(max=0).exp()
    taken = noise.uniform(*accept.shape) < accept
    rows = taken.unsqueeze(-1)
    kept = Chain(
        torch.where(rows, moved.z, chain.z),
        torch.where(taken, moved.log_prob, chain.log_prob),
        torch.where(rows, moved.gradient, chain.gradient),
    )
    return kept, accept


RATE = 0.01
"""Of the adaptation, as in UIVI's code."""


def adapted(step: Tensor, accept: Tensor, *, target: float = 0.9) -> Tensor:
    """step + RATE (a - target) / target step with a the mean acceptance probability: UIVI's rule (its code)."""
    return step + RATE * (accept.mean() - target) / target * step
