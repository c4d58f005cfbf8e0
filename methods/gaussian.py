"""Explicit Gaussian families fitted by the reparameterised ELBO."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bench.checks import require_positive
from bench.registry import register
from methods.base import Clock, Method, Noise, Player
from methods.parts.optim import Adam, staircase
from methods.parts.options import with_options_of
from targets.base import Target


class GaussianFamily(Method):
    """q(x) = N(m, L L^T); subclasses set ``self.mean`` and give L."""

    mean: nn.Parameter

    def scale_tril(self) -> Tensor:
        """L, lower triangular, [d, d]."""
        raise NotImplementedError

    def _log_det(self) -> Tensor:
        return self.scale_tril().diagonal().log().sum()

    def _coloured(self, eps: Tensor) -> Tensor:
        """L eps of every row, [n, d]."""
        return eps @ self.scale_tril().T

    def _whitened(self, x: Tensor) -> Tensor:
        """L^-1 x of every row, [n, d]."""
        return torch.linalg.solve_triangular(self.scale_tril(), x.T, upper=False).T

    def sample(self, n: int, noise: Noise) -> Tensor:
        return self.mean + self._coloured(noise.normal(n, self.target.dim))

    def log_prob(self, x: Tensor) -> Tensor:
        """Exact log q(x), [..., d] -> [...]."""
        white = self._whitened((x - self.mean).reshape(-1, x.shape[-1]))
        log_q = -0.5 * white.square().sum(1) - self._log_det() - 0.5 * x.shape[-1] * math.log(2 * math.pi)
        return log_q.reshape(x.shape[:-1])


class _Gaussian(GaussianFamily):
    """The ELBO gradient by reparameterisation."""

    def __init__(
        self, target: Target, *, batch: int = 100, lr: float = 1e-2, decay: float = 0.9, decay_every: int = 1000
    ) -> None:
        super().__init__(target)
        require_positive(batch=batch, lr=lr, decay=decay, decay_every=decay_every)
        self.batch, self.lr, self.decay, self.decay_every = batch, lr, decay, decay_every
        self.mean = nn.Parameter(torch.zeros(target.dim))

    def players(self) -> Sequence[Player]:
        owns = tuple(name for name, _ in self.named_parameters())
        return [
            Player("q", owns, loss=self.loss, optimiser=Adam(self.lr), schedule=staircase(self.decay, self.decay_every))
        ]

    def loss(self, noise: Noise, clock: Clock) -> Tensor:
        """-ELBO = -E[log p(x)] - H(q), entropy in closed form up to its constant."""
        x = self.sample(self.batch, noise)
        return -self.target.subsample(noise).log_prob(x).mean() - self._log_det()


@register("method", "meanfield", source="standard; reparameterised ELBO (Kingma & Welling 2014, arXiv:1312.6114)")
class MeanField(_Gaussian):
    """Mean-field Gaussian N(m, diag s^2) by the reparameterised ELBO."""

    paper_name = "mean-field"

    @with_options_of(_Gaussian)
    def __init__(self, target: Target, **options: Any) -> None:
        super().__init__(target, **options)
        self.log_sd = nn.Parameter(torch.zeros(target.dim))

    def scale_tril(self) -> Tensor:
        return torch.diag(self.log_sd.exp())

    # Elementwise, as a [d, d] factor of mostly zeros costs a mean field more than all else.
    def _coloured(self, eps: Tensor) -> Tensor:
        return eps * self.log_sd.exp()

    def _whitened(self, x: Tensor) -> Tensor:
        return x / self.log_sd.exp()

    def _log_det(self) -> Tensor:
        return self.log_sd.sum()


@register("method", "fullrank", source="ADVI full rank (Kucukelbir et al. 2017, arXiv:1603.00788)")
class FullRank(_Gaussian):
    """Full-rank Gaussian N(m, L L^T) by the reparameterised ELBO."""

    paper_name = "full-rank"

    @with_options_of(_Gaussian)
    def __init__(self, target: Target, **options: Any) -> None:
        super().__init__(target, **options)
        # unconstrained: strictly lower triangle is free, diagonal is exp
        self.raw_tril = nn.Parameter(torch.zeros(target.dim, target.dim))

    def scale_tril(self) -> Tensor:
        return self.raw_tril.tril(-1) + torch.diag(self.raw_tril.diagonal().exp())
