"""Posteriors given a data set: prior times likelihood over rows, on all rows or on a random minibatch of them."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from bench.checks import require_not_negative
from targets.base import Noise, Target
from targets.numerics import pick

HELD = 2**24
"""Largest number of activations held at once by an evaluation on all rows (unless one row needs more)."""


class DataPosterior(Target):
    """log p(x) = log N(x; 0, I / prior_precision) + sum over rows i of log p(outputs_i | inputs_i, x) + const.

    Subclasses set ``dim`` and ``width`` and write ``log_likelihood`` and ``likelihood_score`` for any set of rows.

    Args:
        inputs: [N, p].
        outputs: [N].
        prior_precision: of every coordinate of x.
        batch: rows B of a minibatch; 0: a loss sees all rows.

    Raises:
        UserError: a negative batch.
    """

    width: int
    """Activations per draw and row, by which evaluations on all rows are cut into blocks."""

    inputs: Tensor
    outputs: Tensor

    def __init__(self, inputs: Tensor, outputs: Tensor, *, prior_precision: float, batch: int) -> None:
        super().__init__()
        require_not_negative("target", batch=batch)
        self.prior_precision, self.batch = prior_precision, batch
        dtype = torch.get_default_dtype()
        self.register_buffer("inputs", inputs.to(dtype))
        self.register_buffer("outputs", outputs.to(dtype) if outputs.is_floating_point() else outputs)

    def log_likelihood(self, x: Tensor, inputs: Tensor, outputs: Tensor) -> Tensor:
        """Sum over the given rows; [..., d], [B, p], [B] -> [...] (nats)."""
        raise NotImplementedError

    def likelihood_score(self, x: Tensor, inputs: Tensor, outputs: Tensor) -> Tensor:
        """Its gradient in x; [..., d]."""
        raise NotImplementedError

    def log_prior(self, x: Tensor) -> Tensor:
        """[..., d] -> [...] (nats)."""
        constant = 0.5 * self.dim * math.log(self.prior_precision / (2 * math.pi))
        return constant - 0.5 * self.prior_precision * x.square().sum(-1)

    def blocks(self, x: Tensor, inputs: Tensor, outputs: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The rows in blocks whose activations for all draws x are at most ``HELD``."""
        rows = max(1, HELD // max(1, self.width * (x.numel() // self.dim)))
        return zip(inputs.split(rows), outputs.split(rows), strict=True)

    def log_prob(self, x: Tensor) -> Tensor:
        """On all rows; [..., d] -> [...] (nats)."""
        parts = [self.log_likelihood(x, *rows) for rows in self.blocks(x, self.inputs, self.outputs)]
        return self.log_prior(x) + torch.stack(parts).sum(0)

    def score(self, x: Tensor) -> Tensor:
        """On all rows, closed form; [..., d] -> [..., d]."""
        parts = [self.likelihood_score(x, *rows) for rows in self.blocks(x, self.inputs, self.outputs)]
        return torch.stack(parts).sum(0) - self.prior_precision * x

    def subsample(self, noise: Noise) -> Target:
        """The posterior with the likelihood of ``batch`` rows, drawn with replacement, times N / batch.

        Its log density and score are unbiased for those of all rows.  (The papers' codes go through shuffled
        batches instead.)
        """
        if self.batch == 0:
            return self
        chosen = pick(self.batch, len(self.inputs), noise)
        return Minibatch(self, self.inputs[chosen], self.outputs[chosen])


class Minibatch(Target):
    """What ``DataPosterior.subsample`` gives: ``whole`` with the likelihood of some of its rows, scaled up."""

    def __init__(self, whole: DataPosterior, inputs: Tensor, outputs: Tensor) -> None:
        super().__init__()
        self.whole, self.dim = whole, whole.dim
        self.rows = inputs, outputs
        self.factor = len(whole.inputs) / len(inputs)

    def log_prob(self, x: Tensor) -> Tensor:
        """[..., d] -> [...] (nats)."""
        return self.whole.log_prior(x) + self.factor * self.whole.log_likelihood(x, *self.rows)

    def score(self, x: Tensor) -> Tensor:
        """[..., d] -> [..., d]."""
        return self.factor * self.whole.likelihood_score(x, *self.rows) - self.whole.prior_precision * x
