"""Optimisers and learning-rate schedules as pure functions of tensors.

They act on the stacked parameters [S, P] of all seeds at once (every rule is elementwise).  Nothing here reads a
tensor's value, so a step has no host synchronisation and compiles into the graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from methods.base import Clock

Schedule = Callable[["Clock"], Tensor | float]
"""Clock -> factor on the learning rate."""


class Optimiser(Protocol):
    """A first-order rule; ``slots`` are tensors of the parameters' shape."""

    @property
    def lr(self) -> float: ...

    @property
    def slots(self) -> tuple[str, ...]: ...

    def step(self, grad: Tensor, slots: dict[str, Tensor], count: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Direction to subtract (before the learning rate) and the new slots; ``count`` is 1 at the first step."""


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma & Ba 2015), bias-corrected, as ``torch.optim.Adam``."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    slots = ("m", "v")

    def step(self, grad: Tensor, slots: dict[str, Tensor], count: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        b1, b2 = self.betas
        m = b1 * slots["m"] + (1 - b1) * grad
        v = b2 * slots["v"] + (1 - b2) * grad * grad
        m_hat = m / (1 - torch.pow(b1, count))
        v_hat = v / (1 - torch.pow(b2, count))
        return m_hat / (v_hat.sqrt() + self.eps), {"m": m, "v": v}


@dataclass(frozen=True)
class AMSGrad(Adam):
    """Adam over the largest second moment so far (Reddi et al. 2018), as ``torch.optim.Adam(amsgrad=True)``."""

    slots = ("m", "v", "v_max")  # type: ignore[assignment]

    def step(self, grad: Tensor, slots: dict[str, Tensor], count: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        b1, b2 = self.betas
        m = b1 * slots["m"] + (1 - b1) * grad
        v = b2 * slots["v"] + (1 - b2) * grad * grad
        v_max = torch.maximum(slots["v_max"], v)
        m_hat = m / (1 - torch.pow(b1, count))
        v_hat = v_max / (1 - torch.pow(b2, count))
        return m_hat / (v_hat.sqrt() + self.eps), {"m": m, "v": v, "v_max": v_max}


@dataclass(frozen=True)
class RMSprop:
    """RMSprop as ``torch.optim.RMSprop``; SIVI-SM uses ``eps=1`` on multinomial logistic regression.

    With ``from_first`` the running mean starts at the first squared gradient instead of 0: with ``eps=1`` the rule of
    UIVI, with ``eps=1e-6`` SVGD's "Adagrad with momentum".
    """

    lr: float = 1e-3
    alpha: float = 0.9
    eps: float = 1e-8
    from_first: bool = False
    slots = ("v",)

    def step(self, grad: Tensor, slots: dict[str, Tensor], count: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        v = self.alpha * slots["v"] + (1 - self.alpha) * grad * grad
        if self.from_first:
            v = torch.where(count == 1, grad * grad, v)
        return grad / (v.sqrt() + self.eps), {"v": v}


@dataclass(frozen=True)
class SGD:
    """Plain gradient descent."""

    lr: float = 1e-3
    slots = ()

    def step(self, grad: Tensor, slots: dict[str, Tensor], count: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return grad, {}


@dataclass(frozen=True)
class Blocks:
    """Another rule with its own factor on the learning rate for each run of consecutive parameters.

    Attributes:
        rule: whose ``lr`` the factors multiply.
        factors: (number of values, factor) in the order of the player's ``named_parameters()``.
    """

    rule: Optimiser
    factors: tuple[tuple[int, float], ...]

    @property
    def lr(self) -> float:
        return self.rule.lr

    @property
    def slots(self) -> tuple[str, ...]:
        return self.rule.slots

    def step(self, grad: Tensor, slots: dict[str, Tensor], count: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        direction, slots = self.rule.step(grad, slots, count)
        factor = torch.cat([grad.new_full((size,), value) for size, value in self.factors])
        return direction * factor, slots


def constant(clock: Clock) -> float:
    """No decay."""
    return 1.0


def staircase(rate: float, every: int) -> Schedule:
    """rate ** floor(step / every): torch's StepLR, the schedule of the SIVI-SM and KSIVI code."""
    return lambda clock: torch.pow(rate, torch.floor(clock.step / every))


def exponential(rate: float, every: float) -> Schedule:
    """rate ** (step / every), decaying continuously: the schedule of the SIVI code."""
    return lambda clock: torch.pow(rate, clock.step / every)
