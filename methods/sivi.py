"""SIVI: the surrogate lower bound of the ELBO with K auxiliary mixing draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, MultivariateNormal

from bench.checks import require_not_negative, require_positive
from bench.errors import UserError
from bench.registry import register
from methods.base import Clock, Noise, Player
from methods.parts.families import Activation, GlobalVariance, SemiImplicitMethod, SharedCovariance
from methods.parts.optim import SGD, Adam, exponential
from methods.parts.options import refuse_unused
from methods.parts.surrogate import surrogate
from methods.parts.warm_start import warm_start
from targets.base import Target


class FullCovariance(SharedCovariance):
    """q(x|z) = N(mu(z), L L^T) with one lower-triangular L for all z, every entry initialised alike.

    The diagonal of L is not constrained to be positive (as in the published code); only |L_ii| enters the density.
    """

    def __init__(
        self, dim: int, noise_dim: int, hidden: tuple[int, ...], *, activation: Activation, entry: float
    ) -> None:
        super().__init__(dim, noise_dim, hidden, activation)
        self.tril = nn.Parameter(torch.full((dim, dim), entry))

    @property
    def factor(self) -> Tensor:
        return self.tril.tril()

    @property
    def log_det(self) -> Tensor:
        return self.factor.diagonal().abs().log().sum()

    def forward(self, z: Tensor, xi: Tensor) -> tuple[Tensor, Tensor]:
        """x = mu(z) + L xi and u = L^-T xi = -grad_x log q(x | z)."""
        u: Tensor = torch.linalg.solve_triangular(self.factor.T, xi.T, upper=True).T
        return self.mean(z) + self.coloured(xi), u

    def coloured(self, xi: Tensor) -> Tensor:
        return xi @ self.factor.T

    def whitened(self, x: Tensor) -> Tensor:
        white: Tensor = torch.linalg.solve_triangular(self.factor, x.T, upper=False).T
        return white

    def conditional(self, z: Tensor) -> Distribution:
        factor = self.factor
        # column signs do not change L L^T; torch asks for a positive diagonal
        return MultivariateNormal(self.mean(z), scale_tril=factor * factor.diagonal().sign())


@register("method", "sivi", source="Yin & Zhou, ICML 2018, arXiv:1805.11183; settings of the 2-D script of its code")
class SIVI(SemiImplicitMethod):
    """Semi-implicit VI by the surrogate bound L_K, fully reparameterised.

    L_K = E[log p(x) - log 1/(K+1) sum_{k=0..K} q(x|z_k)] with x ~ q(x|z_0) and z_1..z_K ~ q(z) shared by the outer
    draws, as in the code; L_K rises to the ELBO as K grows (Molchanov et al. 2019, arXiv:1810.02789).

    Args:
        outer: outer draws J per step (the code calls them K).
        auxiliary: auxiliary mixing draws K (the code calls them J).
        noise_dim, hidden, activation: mixing noise and network of the mean.
        covariance: ``diagonal`` for N(mu, diag sigma^2), or ``full`` for N(mu, L L^T).
        log_var, learn_var: initial log sigma^2, and whether Adam trains it too (both diagonal only: a full covariance
            starts at ``entry`` and is always trained).
        entry, lr_scale, scale_until: initial value of every entry of L, learning rate of its plain gradient descent,
            iteration after which it rests (full).
        lr: learning rate of the network (Adam).
        decay, decay_every: learning rates are multiplied by decay ** (step / decay_every), continuously.
        warm_start, warm_lr: steps on the target's ``dev_loss`` that come before, and their learning rate (regression
            targets); they count as iterations of the run.
    """

    q: SharedCovariance
    paper_name = "SIVI"
    phases: ClassVar[tuple[str, ...]] = ("warm_start", "scale_until")
    cheap = {"outer": 32, "auxiliary": 32}
    added = {"warm_start": 0, "warm_lr": 1e-2}

    def __init__(
        self,
        target: Target,
        *,
        outer: int = 40,
        auxiliary: int = 100,
        noise_dim: int = 10,
        hidden: tuple[int, ...] = (40, 60, 40),
        activation: Literal["relu", "tanh"] = "tanh",
        log_var: float = math.log(0.01),
        learn_var: bool = False,
        covariance: Literal["diagonal", "full"] = "diagonal",
        entry: float = 0.2,
        lr: float = 1e-3,
        lr_scale: float = 1e-3,
        decay: float = 0.75,
        decay_every: int = 100,
        scale_until: int = 2000,
        warm_start: int = 0,
        warm_lr: float = 1e-2,
    ) -> None:
        super().__init__(target)
        require_positive(outer=outer, auxiliary=auxiliary, noise_dim=noise_dim, hidden=hidden)
        require_positive(lr=lr, lr_scale=lr_scale, decay=decay, decay_every=decay_every)
        require_positive(warm_lr=warm_lr)
        if warm_start and covariance == "full":
            raise UserError("method.warm_start with covariance=full", "a warm start needs covariance=diagonal")
        if covariance == "full":
            refuse_unused(self, "covariance=full", log_var=log_var, learn_var=learn_var)
        else:
            refuse_unused(self, "covariance=diagonal", entry=entry, lr_scale=lr_scale)
        if warm_start == 0:
            refuse_unused(self, "warm_start=0", warm_lr=warm_lr)
        if covariance == "full" and entry == 0:
            raise UserError("method.entry=0 with covariance=full is a singular covariance", "start at another value")
        require_not_negative(warm_start=warm_start, scale_until=scale_until)
        sizes = target.dim, noise_dim, tuple(hidden)
        if covariance == "full":
            self.q = FullCovariance(*sizes, activation=activation, entry=entry)
        else:
            self.q = GlobalVariance(*sizes, activation=activation, log_var=log_var)
            self.q.log_var.requires_grad_(learn_var)
        self.outer, self.auxiliary = outer, auxiliary
        self.lr, self.lr_scale, self.scale_until = lr, lr_scale, scale_until
        self.warm_start, self.warm_lr = warm_start, warm_lr
        self.schedule = exponential(decay, decay_every)

    def players(self) -> Sequence[Player]:
        if not isinstance(self.q, FullCovariance):
            q = Player(
                "q",
                ("q",),
                loss=self.loss,
                optimiser=Adam(self.lr),
                schedule=self.schedule,
                start=self.warm_start,
            )
            return [*self._warm(), q]
        networks = tuple(f"q.{n}" for n, p in self.q.named_parameters() if p.requires_grad and n != "tril")
        return [
            Player("mean", networks, loss=self.loss, optimiser=Adam(self.lr), schedule=self.schedule),
            Player(
                "scale",
                ("q.tril",),
                loss=self.loss,
                optimiser=SGD(self.lr_scale),
                schedule=self.schedule,
                until=self.scale_until,
            ),
        ]

    def _warm(self) -> list[Player]:
        def draw(noise: Noise) -> Tensor:
            return self.q.draw(self.outer, noise)[0]

        return warm_start(self, draw, ("q",), steps=self.warm_start, lr=self.warm_lr, averaged=False)

    def loss(self, noise: Noise, clock: Clock) -> Tensor:
        """-L_K."""
        p = self.target.subsample(noise)
        x, log_q = self.bound(self.outer, self.auxiliary, noise)
        return (log_q - p.log_prob(x)).mean()

    def bound(self, outer: int, auxiliary: int, noise: Noise) -> tuple[Tensor, Tensor]:
        """x [J, d] and log 1/(K+1) sum_k q(x_j|z_k), k = 0..K, [J]: an upper bound of log q(x_j) in expectation."""
        mean = self.q.mean(noise.normal(outer + auxiliary, self.q.noise_dim))
        own, others = mean[:outer], mean[outer:]
        xi = noise.normal(outer, self.target.dim)
        x = own + self.q.coloured(xi)
        return x, surrogate(self.q, x, xi, others)
