"""The noise precision of ``mode=principled``: chosen on the standardised scale from training and dev part only.

Rule, per data set: with lambda = 1 and gamma = 1, maximise the posterior on the training part (Adam on all rows from
a fixed start), set gamma to the inverse mean squared error on the dev part, and repeat twice with that gamma.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bench.noise import generator
from targets.bnn import NeuralRegression
from targets.uci import Name, ksivi_split

ROUNDS, STEPS, RATE = 3, 2000, 1e-2

# (log lambda, log gamma): what ``select`` gives, rounded
PRINCIPLED: dict[Name, tuple[float, float]] = {
    "boston": (0.0, 1.954),
    "concrete": (0.0, 2.660),
    "power": (0.0, 2.897),
    "protein": (0.0, 0.626),
    "wine": (0.0, 0.342),
    "yacht": (0.0, 6.009),
}


def select(name: Name, *, hidden: int = 50, rounds: int = ROUNDS, steps: int = STEPS) -> float:
    """log gamma by the rule of this module, in units of the standardised response.

    Raises:
        UserError: the data cannot be had.
    """
    data = ksivi_split(name)
    assert data.dev is not None
    log_gamma = 0.0
    for _ in range(rounds):
        target = NeuralRegression(
            data,
            hidden=hidden,
            log_lambda=0.0,
            log_gamma=log_gamma,
            test_log_gamma=log_gamma,
            batch=0,
            original_scale=False,
        )
        x = _maximise(target, steps)
        log_gamma = -math.log(float(target.dev_loss(x.unsqueeze(0))))
    return log_gamma


def _maximise(target: NeuralRegression, steps: int) -> Tensor:
    """Weights of high density: Adam, its rate falling linearly to zero, from N(0, 1 / fan-in)."""
    x = torch.randn(target.dim, generator=generator("precision", target.dim)).to(target.inputs)
    x[: target.split_at] /= math.sqrt(target.inputs.shape[1])
    x[target.split_at :] /= math.sqrt(target.hidden)
    x.requires_grad_()
    adam = torch.optim.Adam([x], lr=RATE)
    for step in range(steps):
        adam.param_groups[0]["lr"] = RATE * (1 - step / steps)
        x.grad = -target.score(x.detach()) / len(target.inputs)
        adam.step()
    return x.detach()
