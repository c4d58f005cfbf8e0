"""Kernels k_theta(x | z) of PVI, and the equal mixture of M of them: draws, density and score."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal
from torch.nn.functional import softplus

from methods.parts import kernels
from methods.parts.families import mlp
from methods.parts.symmetric import symmetric_exp
from methods.parts.unit_mixture import unit_mixture_score

KernelMean = Literal["const", "push", "skip", "lskip"]
SCALE_FLOOR = 1e-6
"""Smallest standard deviation that a network gives."""


class ParticleKernel(nn.Module):
    """k_theta(x | z), a Gaussian; ``moments`` of M particles describe the mixture for everything else.

    Args:
        mean: ``const`` z; ``push`` f(z); ``skip`` z + f(z); ``lskip`` W z + f(z), W without bias.
        hidden: widths of f (LeakyReLU).
        outputs: of f per dimension of x; the mean is the first.
    """

    def __init__(self, dim: int, latent_dim: int, mean: KernelMean, hidden: tuple[int, ...], outputs: int = 1) -> None:
        super().__init__()
        self.dim, self.skip = dim, mean in ("const", "skip")
        self.f = mlp(latent_dim, hidden, outputs * dim, "leaky_relu") if mean != "const" else None
        self.linear = nn.Linear(latent_dim, dim, bias=False) if mean == "lskip" else None

    def shifted(self, z: Tensor, f: Tensor | None) -> Tensor:
        """The mean mu(z), [..., d_z] -> [..., d], for the part f of it that is a network's."""
        parts = [z] if self.skip else []
        parts += [part for part in (f, None if self.linear is None else self.linear(z)) if part is not None]
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]

    def moments(self, z: Tensor) -> tuple[Tensor, ...]:
        """What of the kernel depends on z: the mean, and the standard deviations if they do; [..., d_z] -> [..., d]."""
        raise NotImplementedError

    def draw(self, moments: tuple[Tensor, ...], eps: Tensor) -> Tensor:
        """x for standard normal eps, [..., d] each."""
        raise NotImplementedError

    def pulled(self, gradient: Tensor, eps: Tensor) -> tuple[Tensor, ...]:
        """Gradients with respect to the moments [M, d] of the mean over L of values with gradient [M, L, d] in x."""
        raise NotImplementedError

    def score(self, x: Tensor, moments: tuple[Tensor, ...]) -> Tensor:
        """grad_x log q of the mixture at x [n, d], as a constant."""
        raise NotImplementedError

    def log_prob(self, x: Tensor, moments: tuple[Tensor, ...]) -> Tensor:
        """log q of the mixture at x, [n, d] -> [n]."""
        raise NotImplementedError

    def conditional(self, z: Tensor) -> Distribution:
        """k(x | z), batch shape z.shape[:-1], event shape [d]."""
        raise NotImplementedError


class ConstantKernel(ParticleKernel):
    """N(mu(z), S S), S = exp(A / 2).

    Args:
        full: A = (B + B') / 2 for any B; otherwise A is diagonal.  A starts at ``log_var`` times the identity.
    """

    def __init__(
        self, dim: int, latent_dim: int, mean: KernelMean, hidden: tuple[int, ...], full: bool, log_var: float
    ) -> None:
        super().__init__(dim, latent_dim, mean, hidden)
        self.full = full
        start = torch.full((dim,), float(log_var))
        self.log_cov = nn.Parameter(start.diag() if full else start)

    def moments(self, z: Tensor) -> tuple[Tensor, ...]:
        return (self.shifted(z, None if self.f is None else self.f(z)),)

    def scale(self, x: Tensor, power: float) -> Tensor:
        """Rows of x [..., d] times S^power = exp(power A / 2)."""
        if not self.full:
            return x * torch.exp(0.5 * power * self.log_cov)
        return x @ symmetric_exp(0.5 * power * (self.log_cov + self.log_cov.T) / 2)

    def draw(self, moments: tuple[Tensor, ...], eps: Tensor) -> Tensor:
        return moments[0] + self.scale(eps, 1)

    def pulled(self, gradient: Tensor, eps: Tensor) -> tuple[Tensor, ...]:
        return (gradient.mean(1),)

    def score(self, x: Tensor, moments: tuple[Tensor, ...]) -> Tensor:
        """sum_m w_m(x) (S S)^-1 (mu_m - x)."""
        white = unit_mixture_score(self.scale(x, -1), self.scale(moments[0], -1))
        return self.scale(white, -1).detach()

    def log_prob(self, x: Tensor, moments: tuple[Tensor, ...]) -> Tensor:
        D = kernels.statistic("gaussian", self.scale(x, -1), self.scale(moments[0], -1))
        log_det = 0.5 * (self.log_cov.diagonal() if self.full else self.log_cov).sum()  # of S
        return torch.logsumexp(-0.5 * D, dim=-1) - _constant(moments[0]) - log_det

    def conditional(self, z: Tensor) -> Distribution:
        (mean,) = self.moments(z)
        if not self.full:
            return Independent(Normal(mean, torch.exp(0.5 * self.log_cov).expand_as(mean)), 1)
        covariance = self.scale(torch.eye(self.dim, dtype=mean.dtype, device=mean.device), 2)
        # of its two triangles, alike but for rounding, the factorisation reads one
        return MultivariateNormal(mean, scale_tril=torch.linalg.cholesky(covariance))


class NetworkKernel(ParticleKernel):
    """N(mu(z), diag s(z)^2) with s = softplus of f's second half of outputs, as in the code's Bayesian neural nets."""

    def __init__(self, dim: int, latent_dim: int, mean: KernelMean, hidden: tuple[int, ...]) -> None:
        super().__init__(dim, latent_dim, mean, hidden, outputs=2)

    def moments(self, z: Tensor) -> tuple[Tensor, ...]:
        assert self.f is not None
        f, s = self.f(z).chunk(2, dim=-1)
        return self.shifted(z, f), softplus(s) + SCALE_FLOOR

    def draw(self, moments: tuple[Tensor, ...], eps: Tensor) -> Tensor:
        return moments[0] + moments[1] * eps

    def pulled(self, gradient: Tensor, eps: Tensor) -> tuple[Tensor, ...]:
        return gradient.mean(1), (gradient * eps).mean(1)

    def score(self, x: Tensor, moments: tuple[Tensor, ...]) -> Tensor:
        """sum_m w_m(x) (mu_m - x) / s_m^2."""
        x, mean = _centred(x.detach(), moments[0].detach())
        precision = moments[1].detach().pow(-2)
        w = torch.softmax(_logits(x, mean, precision), dim=-1)
        return w @ (mean * precision) - x * (w @ precision)

    def log_prob(self, x: Tensor, moments: tuple[Tensor, ...]) -> Tensor:
        x, mean = _centred(x, moments[0])
        return torch.logsumexp(_logits(x, mean, moments[1].pow(-2)), dim=-1) - _constant(mean)

    def conditional(self, z: Tensor) -> Distribution:
        mean, s = self.moments(z)
        return Independent(Normal(mean, s), 1)


def _centred(x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Both shifted by the mean of the means: far from 0 and at small scales the terms of ``_logits`` would cancel."""
    centre = mean.mean(0)
    return x - centre, mean - centre


def _logits(x: Tensor, mean: Tensor, precision: Tensor) -> Tensor:
    """log N(x_i; mu_m, diag 1 / precision_m) up to a constant, [n, M], by matrix products: no [n, M, d]."""
    D = x.square() @ precision.T - 2 * x @ (mean * precision).T + (mean.square() * precision).sum(-1)
    return 0.5 * (precision.log().sum(-1) - D)


def _constant(mean: Tensor) -> float:
    """log M + d/2 log 2 pi for means [M, d]."""
    return math.log(mean.shape[-2]) + 0.5 * mean.shape[-1] * math.log(2 * math.pi)
