"""A warm start shared by methods on regression targets: the mean prediction is fitted first."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from bench.errors import UserError
from methods.base import Clock, Loss, Method, Noise, Player
from methods.parts.optim import Adam


def warm_start(
    method: Method, draw: Callable[[Noise], Tensor], owns: tuple[str, ...], *, steps: int, lr: float, averaged: bool
) -> list[Player]:
    """The players (one, or none for ``steps=0``) that minimise the target's ``dev_loss`` in the first ``steps``.

    The scripts of SIVI-SM and KSIVI start their Bayesian neural nets so: Adam on the mean squared error of the mean
    prediction over the draws (KSIVI on a development split, which is what ``dev_loss`` gives; SIVI-SM's on minibatches
    of the training split).

    Args:
        method: its target must have ``dev_loss(x)``: draws [n, d] -> scalar.
        draw: noise -> draws of q, [n, d].
        owns: the parameters of q.
        steps: number of steps; the players that follow begin after them.
        lr: Adam's learning rate.
        averaged: whether the players that follow average the same parameters; the average then begins here.

    Raises:
        UserError: a warm start is asked for and the target has no ``dev_loss``.
    """
    if steps == 0:
        return []
    dev_loss: Callable[[Tensor], Tensor] | None = getattr(method.target, "dev_loss", None)
    if dev_loss is None:
        raise UserError(
            f"method.warm_start={steps}: {method.target.registered_name or type(method.target).__name__} has no "
            "development split",
            "leave method.warm_start out; it is for regression targets (bnn_*)",
        )

    def loss(noise: Noise, clock: Clock) -> Tensor:
        # looked up again: the engine swaps tensors and counts calls on the method's own target
        value: Tensor = method.target.dev_loss(draw(noise))  # type: ignore[operator]
        return value

    run: Loss = loss
    # a decay of 0 sets the average to the current parameters
    return [Player("warm", owns, loss=run, optimiser=Adam(lr), until=steps, ema=0.0 if averaged else None)]
