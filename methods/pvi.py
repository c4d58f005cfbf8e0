"""PVI: particle semi-implicit VI, a Euclidean-Wasserstein gradient flow (Lim & Johansen 2024, arXiv:2407.00649)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, MultivariateNormal

from bench.errors import UserError
from bench.registry import register
from methods import kernels
from methods.base import Clock, Method, Noise, Player, require_fraction, require_not_negative, require_positive
from methods.families import mlp
from methods.optim import RMSprop, exponential
from methods.symmetric import symmetric_exp
from methods.unit_mixture import mixture_backend, unit_mixture_score
from targets.base import Target

PRECONDITIONER_FLOOR = 1e-8
"""Added to the root of the running mean square of the drift."""


class ParticleKernel(nn.Module):
    """k_theta(x | z) = N(mu(z), S S), S = exp(A / 2): mean and scale of every component.

    Args:
        mean: ``const`` z; ``push`` f(z); ``skip`` z + f(z); ``lskip`` W z + f(z), W without bias.
        full: A = (B + B') / 2 for any B; otherwise A is diagonal.  A starts at ``log_var`` times the identity.
        hidden: widths of f (LeakyReLU).
    """

    def __init__(
        self, dim: int, latent_dim: int, mean: str, full: bool, hidden: tuple[int, ...], log_var: float
    ) -> None:
        super().__init__()
        self.skip, self.full = mean in ("const", "skip"), full
        self.f = mlp(latent_dim, hidden, dim, "leaky_relu") if mean != "const" else None
        self.linear = nn.Linear(latent_dim, dim, bias=False) if mean == "lskip" else None
        start = torch.full((dim,), float(log_var))
        self.log_cov = nn.Parameter(start.diag() if full else start)

    def mean(self, z: Tensor) -> Tensor:
        """mu(z), [..., d_z] -> [..., d]."""
        parts = [z] if self.skip else []
        parts += [part(z) for part in (self.f, self.linear) if part is not None]
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]

    def scale(self, x: Tensor, power: float) -> Tensor:
        """Rows of x [..., d] times S^power = exp(power A / 2)."""
        if not self.full:
            return x * torch.exp(0.5 * power * self.log_cov)
        return x @ symmetric_exp(0.5 * power * (self.log_cov + self.log_cov.T) / 2)

    def log_det(self) -> Tensor:
        """log det S = tr A / 2."""
        return 0.5 * (self.log_cov.diagonal() if self.full else self.log_cov).sum()


@register("method", "pvi", source="Lim & Johansen, NeurIPS 2024, arXiv:2407.00649")
class PVI(Method):
    """Particle VI: q(x) = (1/M) sum_m k_theta(x | Z_m); kernel and particles follow the gradient of the free energy.

    With F = E_q[log q - log p] + lambda KL(r | N(0, I)), r the law of the particles: theta descends F along its path
    gradient and the particles take preconditioned Langevin steps against its first variation,

        b_m = E_eps[(d mu / d z)' (grad log q - grad log p)(mu(Z_m) + S eps)] + lambda Z_m
        Z_m <- Z_m - h Psi b_m + sqrt(2 lambda h Psi) xi_m,   Psi = 1 / sqrt(running mean over particles of b^2)

    grad log q is exact: q is a finite mixture.  Both steps use the same draws, one evaluation of the target's score
    each, and start from the same state; the paper moves theta first.  Its constant gamma inside log q (a regulariser
    for the theory) is 0 here, and the standard normal p_0 of the KL term is this suite's choice.

    Args:
        particles: M.
        samples: L, draws eps per particle and iteration.
        latent_dim: d_z, dimension of a particle; 0: that of x (needed by ``const`` and ``skip``).
        kernel: mean of k: ``const`` z, ``push`` f(z), ``skip`` z + f(z), ``lskip`` W z + f(z).
        covariance: of k: ``diagonal``, or ``full``, the matrix exponential of a symmetric matrix.
        hidden: widths of f.
        log_var: initial log variance of k.
        lr: h_theta, step of RMSprop.
        lr_particles: h, step of the particles.
        decay, decay_every: h_theta is multiplied by decay ** (step / decay_every).
        smoothing: decay of the running mean squares, for theta and for the particles.
        temperature: lambda.
    """

    paper_name = "PVI"
    needs = frozenset({"score"})
    carried = ("particles", "mean_square")
    cheap = {"particles": 20, "samples": 8, "hidden": (16,), "lr": 1e-2, "lr_particles": 1e-2}

    particles: Tensor
    mean_square: Tensor

    def __init__(
        self,
        target: Target,
        *,
        particles: int = 100,
        samples: int = 250,
        latent_dim: int = 0,
        kernel: Literal["const", "push", "skip", "lskip"] = "skip",
        covariance: Literal["diagonal", "full"] = "diagonal",
        hidden: tuple[int, ...] = (512, 512),
        log_var: float = 0.0,
        lr: float = 1e-4,
        lr_particles: float = 1e-2,
        decay: float = 1.0,
        decay_every: int = 1000,
        smoothing: float = 0.9,
        temperature: float = 1e-8,
    ) -> None:
        super().__init__(target)
        require_positive(particles=particles, samples=samples, hidden=hidden, lr=lr, lr_particles=lr_particles)
        require_positive(decay=decay, decay_every=decay_every)
        require_not_negative(latent_dim=latent_dim, temperature=temperature)
        require_fraction(smoothing=smoothing)
        latent_dim = latent_dim or target.dim
        if kernel in ("const", "skip") and latent_dim != target.dim:
            raise UserError(
                f"method.kernel={kernel} adds z of dimension {latent_dim} to x of dimension {target.dim}",
                "leave method.latent_dim out, or use method.kernel=lskip or push",
            )
        self.k = ParticleKernel(target.dim, latent_dim, kernel, covariance == "full", tuple(hidden), log_var)
        self.register_buffer("particles", torch.randn(particles, latent_dim))
        self.register_buffer("mean_square", torch.zeros(latent_dim))
        self.samples, self.lr, self.lr_particles = samples, lr, lr_particles
        self.decay, self.decay_every, self.smoothing, self.temperature = decay, decay_every, smoothing, temperature

    def players(self) -> Sequence[Player]:
        rmsprop, schedule = RMSprop(self.lr, self.smoothing), exponential(self.decay, self.decay_every)
        return [Player("theta", ("k",), loss=self.step, optimiser=rmsprop, schedule=schedule)]

    def step(self, noise: Noise, clock: Clock) -> tuple[Tensor, dict[str, Tensor]]:
        """Surrogate whose gradient in theta is the path gradient of F, and the moved particles."""
        Z = self.particles
        M, d_z = len(Z), Z.shape[1]
        p = self.target.subsample(noise)
        mu, pull_back = torch.func.vjp(self.k.mean, Z)  # type: ignore[misc]
        x = (mu.unsqueeze(1) + self.k.scale(noise.normal(M, self.samples, self.target.dim), 1)).flatten(0, 1)
        fixed = x.detach()
        difference = self.exact_score(fixed, mu) - p.score(fixed).detach()
        drift = pull_back(difference.view(M, self.samples, -1).mean(1))[0].detach() + self.temperature * Z
        changed = self._langevin(drift, noise.normal(M, d_z), clock)
        return (difference * x).sum(-1).mean(), changed

    def _langevin(self, drift: Tensor, xi: Tensor, clock: Clock) -> dict[str, Tensor]:
        # the first value stands for itself: a running mean that began at 0 would make huge first steps
        weight = torch.where(clock.step == 0, 0.0, self.smoothing)
        mean_square = weight * self.mean_square + (1 - weight) * drift.square().mean(0)
        h = self.lr_particles / (mean_square.sqrt() + PRECONDITIONER_FLOOR)
        moved = self.particles - h * drift + torch.sqrt(2 * self.temperature * h) * xi
        return {"particles": moved, "mean_square": mean_square}

    def _distances(self, x: Tensor, mu: Tensor) -> Tensor:
        """|S^-1 (x_i - mu_m)|^2, [n, M]."""
        return kernels.statistic("gaussian", self.k.scale(x, -1), self.k.scale(mu, -1))

    def exact_score(self, x: Tensor, mu: Tensor) -> Tensor:
        """grad_x log q at x [n, d] for means mu [M, d]: sum_m w_m(x) (S S)^-1 (mu_m - x), as a constant."""
        white = unit_mixture_score(self.k.scale(x, -1), self.k.scale(mu, -1))
        return self.k.scale(white, -1).detach()

    def operations(self) -> dict[str, str]:
        return {"mixture_score": mixture_backend(self.k.log_cov)}

    def log_prob(self, x: Tensor) -> Tensor:
        """Exact log q of the finite mixture, [..., d] -> [...]."""
        flat = x.reshape(-1, x.shape[-1])
        log_q = torch.logsumexp(-0.5 * self._distances(flat, self.k.mean(self.particles)), dim=-1)
        constant = math.log(len(self.particles)) + 0.5 * x.shape[-1] * math.log(2 * math.pi) + self.k.log_det()
        return (log_q - constant).reshape(x.shape[:-1])

    def mixing(self, n: int, noise: Noise) -> Tensor:
        """n particles drawn with replacement, [n, d_z]."""
        index = (noise.uniform(n) * len(self.particles)).long().clamp(max=len(self.particles) - 1)
        return self.particles[index]

    def conditional(self, z: Tensor) -> Distribution:
        """k(x | z), batch shape z.shape[:-1], event shape [d]."""
        mean = self.k.mean(z)
        covariance = self.k.scale(torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device), 2)
        return MultivariateNormal(mean, covariance)

    def sample(self, n: int, noise: Noise) -> Tensor:
        return self.k.mean(self.mixing(n, noise)) + self.k.scale(noise.normal(n, self.target.dim), 1)
