"""The semi-implicit family of BSIVI and AISIVI, and the path gradient both follow (Pielok et al. 2025, 2506.03839)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.checks import require_positive, require_share
from methods.base import Clock, Noise, Player
from methods.parts.families import Diagonal, SemiImplicitMethod
from methods.parts.kernels import squares
from methods.parts.optim import Adam, Schedule, staircase
from targets.base import Target

FLOOR = 1e-10
"""Smallest standard deviation of q(x | z)."""


class UniformSemiImplicit(Diagonal):
    """q(x | z) = N(mu(z), diag sigma^2),  z ~ U[0, 1]^k,  sigma = 1e-10 + alpha softplus(rho), rho = 1 at the start.

    Args:
        dim: d, dimension of x.
        noise_dim: k, dimension of z.
        hidden: sizes of the hidden layers of mu (ReLU).
        alpha: scale of sigma.
    """

    def __init__(self, dim: int, noise_dim: int, hidden: tuple[int, ...], alpha: float) -> None:
        super().__init__(dim, noise_dim, hidden)
        self.alpha = alpha
        self.rho = nn.Parameter(torch.ones(dim))

    @property
    def sigma(self) -> Tensor:
        """Standard deviation of q(x | z), [d]."""
        return FLOOR + self.alpha * F.softplus(self.rho)

    def mixing(self, n: int, noise: Noise) -> Tensor:
        """n draws z, [n, k]."""
        return noise.uniform(n, self.noise_dim)

    def mixing_log_prob(self, z: Tensor) -> Tensor:
        """log q(z): 0 inside the unit cube, -inf outside; [..., k] -> [...]."""
        inside = ((z >= 0) & (z <= 1)).all(-1)
        return torch.where(inside, 0.0, -torch.inf).to(z.dtype)


class PathGradientMethod(SemiImplicitMethod):
    """Reverse KL by its path gradient E[(grad log q(x) - s_p(x)) . dx / dphi] with an estimate of grad log q.

    Only values of the score of p are used, no derivatives of it.  Subclasses give ``mixture_score``.
    """

    q: UniformSemiImplicit
    needs = frozenset({"score"})

    def __init__(
        self, target: Target, *, noise_dim: int, hidden: Sequence[int], alpha: float, batch: int, inner: int,
        lr: float, decay: float, decay_every: int,
    ) -> None:  # fmt: skip
        super().__init__(target)
        require_positive(noise_dim=noise_dim, hidden=hidden, alpha=alpha, batch=batch, inner=inner)
        require_positive(lr=lr, decay=decay, decay_every=decay_every)
        require_share(decay=decay)
        self.q = UniformSemiImplicit(target.dim, noise_dim, tuple(hidden), alpha)
        self.batch, self.inner, self.lr = batch, inner, lr
        self.schedule: Schedule = staircase(decay, decay_every)

    def players(self) -> Sequence[Player]:
        return [Player("q", ("q",), loss=self.loss, optimiser=Adam(self.lr), schedule=self.schedule)]

    def loss(self, noise: Noise, clock: Clock) -> Tensor:
        """A surrogate whose gradient is the path gradient; its value has no meaning."""
        p = self.target.subsample(noise)
        z = self.q.mixing(self.batch, noise)
        x = self.q(z, noise.normal(self.batch, self.target.dim))[0]
        fixed = x.detach()
        with torch.no_grad():
            difference = self.mixture_score(fixed, z, noise) - p.score(fixed)
        return (difference * x).sum(-1).mean()

    def mixture_score(self, x: Tensor, z: Tensor, noise: Noise) -> Tensor:
        """Estimate of grad_x log q(x) at x ~ q(x | z); x [n, d], z [n, k] -> [n, d]."""
        raise NotImplementedError


def gaussian_mixture_score(x: Tensor, means: Tensor, sigma: Tensor, log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """log sum_i w_i exp(-|x - m_i|^2 / 2 sigma^2) and its gradient in x.

    Args:
        x: points, [n, d].
        means: m_i, [c, d] shared by all points or [c, n, d].
        sigma: standard deviations, [d].
        log_weights: log w_i, broadcastable to [c, n]; non-finite ones count as w_i = 0.

    Returns:
        the log sum (without the Gaussian's constant), [n], and its gradient, [n, d] (0 where the sum is empty).
    """
    white, centres = x / sigma, means / sigma
    if means.dim() == 2:
        # differences, not the expanded square: sigma may be thousands of times smaller than x
        squared = torch.cdist(centres, white, compute_mode="donot_use_mm_for_euclid_dist").square()
    else:
        squared = squares(centres - white)
    log_terms = log_weights - 0.5 * squared
    known = torch.isfinite(log_terms)
    log_terms = torch.where(known, log_terms, -torch.inf)
    log_sum = torch.logsumexp(log_terms, dim=0)
    some = torch.isfinite(log_sum)
    # of an empty sum all shares are exp(-inf - 0) = 0
    share = torch.exp(log_terms - torch.where(some, log_sum, 0.0))
    if means.dim() == 2:
        centre = share.mT @ centres
    else:  # a mean that is not finite has no share, but 0 times NaN is NaN
        centre = (share.unsqueeze(-1) * torch.where(known.unsqueeze(-1), centres, 0.0)).sum(0)
    return log_sum, torch.where(some.unsqueeze(-1), (centre - white) / sigma, 0.0)


def merge(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """(log sum, gradient) of two parts of one sum -> of the whole; not finite where both parts are empty."""
    log_sum = torch.logaddexp(first[0], second[0])
    shares = [torch.exp(part[0] - log_sum).unsqueeze(1) for part in (first, second)]
    return log_sum, shares[0] * first[1] + shares[1] * second[1]


def pieces(total: int, largest: int) -> list[int]:
    """Sizes of at most ``largest`` that sum to ``total``."""
    whole, rest = divmod(total, max(1, largest))
    return [max(1, largest)] * whole + [rest] * (rest > 0)
