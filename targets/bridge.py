"""Geometric bridges: densities between a Gaussian and a target, for layered methods."""

from __future__ import annotations

import math
from typing import Literal, get_args

from torch import Tensor

from bench.errors import UserError
from targets.base import Target

Ladder = Literal["linear", "quadratic", "square_root"]
_POWERS: dict[str, float] = {"linear": 1.0, "quadratic": 2.0, "square_root": 0.5}


class GeometricBridge(Target):
    """p_lambda(x) proportional to N(x; 0, s^2 I)^(1 - lambda) p(x)^lambda: lambda = 0 the base, 1 the target.

    Args:
        target: p.
        weight: lambda in [0, 1].
        base_sd: s > 0.
    """

    def __init__(self, target: Target, weight: float, base_sd: float = 1.0) -> None:
        super().__init__()
        self.target, self.dim, self.weight, self.base_sd = target, target.dim, weight, base_sd

    def log_prob(self, x: Tensor) -> Tensor:
        """(1 - lambda) log N(x; 0, s^2 I) + lambda log p(x); [..., d] -> [...] (nats, unnormalised)."""
        constant = self.dim * (0.5 * math.log(2 * math.pi) + math.log(self.base_sd))
        base = -0.5 * x.square().sum(-1) / self.base_sd**2 - constant
        return (1 - self.weight) * base + self.weight * self.target.log_prob(x)

    def score(self, x: Tensor) -> Tensor:
        """-(1 - lambda) x / s^2 + lambda grad log p(x); [..., d] -> [..., d]."""
        return self.weight * self.target.score(x) - ((1 - self.weight) / self.base_sd**2) * x


def geometric_ladder(target: Target, levels: int, base_sd: float = 1.0, ladder: Ladder = "linear") -> list[Target]:
    """Bridges at lambda_i = (i / levels)^a, i = 1..levels; the last is the target itself, the base is left out.

    Args:
        target: p.
        levels: how many, >= 1.
        base_sd: s of the base N(0, s^2 I).
        ladder: ``linear`` a = 1, ``quadratic`` a = 2 (closer to the base), ``square_root`` a = 1/2.

    Raises:
        UserError: no level, a base that is not positive, or an unknown ladder.
    """
    if levels < 1 or base_sd <= 0:
        raise UserError(f"a bridge of {levels} levels from N(0, {base_sd}^2 I)", "give at least one level and a sd > 0")
    if ladder not in _POWERS:
        raise UserError(f"unknown ladder {ladder!r}", f"choose from: {', '.join(get_args(Ladder))}")
    weights = [(i / levels) ** _POWERS[ladder] for i in range(1, levels)]
    return [*(GeometricBridge(target, weight, base_sd) for weight in weights), target]
