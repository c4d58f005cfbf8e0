"""Bayesian neural nets for regression: one hidden ReLU layer, Gaussian noise and prior with fixed precisions.

    log p(x) = sum_i log N(y_i; f(u_i; x), 1 / gamma) + log N(x; 0, I / lambda),    x = (W1, b1, W2, b2) in one vector

A posterior of this kind has very many modes (at least every permutation of the hidden units), so no sampler's draws
are kept as a reference: what is measured is prediction on held-out data.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bench.errors import UserError
from targets import relu_net
from targets.data_posterior import DataPosterior
from targets.uci import Split

LARGEST_LOG = 80.0
"""Of a precision, so that float32 holds it and its inverse."""


class NeuralRegression(DataPosterior):
    """Posterior of the weights of a net with one hidden ReLU layer, given a training set.

    x holds W1 [p, hidden] row by row, b1 [hidden], W2 [hidden], b2: hidden (p + 2) + 1 numbers.

    Args:
        data: standardised parts.
        hidden: units.
        log_lambda: log of the prior precision.
        log_gamma: log of the noise precision in the likelihood, in units of the STANDARDISED response.
        test_log_gamma: log of the noise precision of predictions, in units in which ``predict`` answers.
        batch: rows of a minibatch, 0 for all.
        original_scale: whether predictions are given in units of the original response.
    """

    dev_inputs: Tensor
    dev_outputs: Tensor
    test_inputs: Tensor
    test_outputs: Tensor

    def __init__(
        self,
        data: Split,
        *,
        hidden: int,
        log_lambda: float,
        log_gamma: float,
        test_log_gamma: float,
        batch: int,
        original_scale: bool,
    ) -> None:
        for name, value in {"log_lambda": log_lambda, "log_gamma": log_gamma}.items():
            if not abs(value) <= LARGEST_LOG:
                raise UserError(
                    f"target.{name}={value} is no logarithm of a precision", f"stay within {LARGEST_LOG:g} of 0"
                )
        super().__init__(
            self._with_ones(data.train[0]), data.train[1], prior_precision=math.exp(log_lambda), batch=batch
        )
        self.hidden = self.width = hidden
        self.split_at = self.inputs.shape[1] * hidden  # W1 and b1 end here
        self.dim = self.split_at + hidden + 1
        self.log_lambda, self.log_gamma, self.test_log_gamma = log_lambda, log_gamma, test_log_gamma
        self.gamma = math.exp(log_gamma)
        self.original_scale = original_scale
        self.location, self.scale = (data.mean, data.sd) if original_scale else (0.0, 1.0)
        dtype = torch.get_default_dtype()
        u, y = data.test
        self.register_buffer("test_inputs", self._with_ones(u).to(dtype))
        self.register_buffer("test_outputs", (self.location + self.scale * y).to(dtype))
        u, y = data.dev if data.dev is not None else (u[:0], y[:0])
        self.register_buffer("dev_inputs", self._with_ones(u).to(dtype))
        self.register_buffer("dev_outputs", y.to(dtype))

    @staticmethod
    def _with_ones(u: Tensor) -> Tensor:
        """Inputs with a last column of ones, which meets b1."""
        return torch.cat((u, torch.ones_like(u[:, :1])), dim=1)

    def _predicted(self, x: Tensor, inputs: Tensor) -> Tensor:
        """f at the given inputs (last column ones); [..., d] -> [..., B]."""
        return relu_net.plain_layers(x, inputs, self.hidden)[-1]

    def log_likelihood(self, x: Tensor, inputs: Tensor, outputs: Tensor) -> Tensor:
        """sum_i log N(y_i; f(u_i; x), 1 / gamma); [..., d] -> [...] (nats)."""
        constant = 0.5 * len(outputs) * (self.log_gamma - math.log(2 * math.pi))
        return constant + relu_net.misfit(x, inputs, outputs, self.hidden, self.gamma)

    def likelihood_score(self, x: Tensor, inputs: Tensor, outputs: Tensor) -> Tensor:
        """Closed form, and so is its derivative: see ``targets.relu_net``; [..., d] -> [..., d]."""
        return relu_net.score(x, inputs, outputs, self.hidden, self.gamma)

    def operations(self) -> dict[str, str]:
        return {"relu_net": relu_net.net_backend(self.inputs.device, self.inputs.dtype, self.hidden)}

    def dev_loss(self, x: Tensor) -> Tensor:
        """Mean squared error on the dev part of the mean prediction over draws, standardised; [n, d] -> scalar.

        The official scripts start q by minimising it (99 steps): see ``methods.parts.warm_start``.

        Raises:
            UserError: the target has no dev part.
        """
        if len(self.dev_outputs) == 0:
            raise UserError(f"{self.registered_name} has no development part", "leave method.warm_start out")
        mean = self._predicted(x, self.dev_inputs).mean(0)
        return (mean - self.dev_outputs).square().mean()

    def predict(self, x: Tensor) -> Tensor:
        """f at the test inputs, in units of ``test_outputs``; draws [n, d] -> [n, M]."""
        rows = max(1, len(self.test_inputs) * self.width)
        parts = [self._predicted(part, self.test_inputs) for part in x.split(max(1, 2**24 // rows))]
        return self.location + self.scale * torch.cat(parts)

    def test_rmse(self, x: Tensor) -> Tensor:
        """Root mean square error of the mean prediction over draws; [n, d] -> scalar."""
        return (self.predict(x).mean(0) - self.test_outputs).square().mean().sqrt()

    def test_rmse_of_draws(self, x: Tensor) -> Tensor:
        """Root of the mean over draws of each draw's mean square error; [n, d] -> scalar, never below ``test_rmse``."""
        return (self.predict(x) - self.test_outputs).square().mean().sqrt()

    def test_log_predictive(self, x: Tensor) -> Tensor:
        """Mean over test points of log mean over draws of N(y; f, 1 / test gamma); [n, d] -> scalar (nats)."""
        misfit = (self.predict(x) - self.test_outputs).square()
        log_p = 0.5 * (self.test_log_gamma - math.log(2 * math.pi)) - 0.5 * math.exp(self.test_log_gamma) * misfit
        return (torch.logsumexp(log_p, dim=0) - math.log(len(x))).mean()
