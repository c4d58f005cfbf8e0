"""PVI: particle semi-implicit VI, a Euclidean-Wasserstein gradient flow (Lim & Johansen 2024, arXiv:2407.00649)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.distributions import Distribution

from bench.checks import require_fraction, require_not_negative, require_positive
from bench.errors import UserError
from bench.registry import register
from methods.base import Clock, Method, Noise, Player
from methods.parts.optim import RMSprop, exponential
from methods.parts.options import refuse_unused
from methods.parts.particle_kernel import ConstantKernel, KernelMean, NetworkKernel, ParticleKernel
from methods.parts.unit_mixture import mixture_backend
from targets.base import Target
from targets.numerics import pick

PRECONDITIONER_FLOOR = 1e-8
"""Added to the root of the running mean square of the drift."""


@register("method", "pvi", source="Lim & Johansen, NeurIPS 2024, arXiv:2407.00649")
class PVI(Method):
    """Particle VI: q(x) = (1/M) sum_m k_theta(x | Z_m); kernel and particles follow the gradient of the free energy.

    With F = E_q[log q - log p] + lambda KL(r | N(0, I)), r the law of the particles: theta descends F along its path
    gradient and the particles take preconditioned Langevin steps against its first variation,

        b_m = E_eps[(d x / d z)' (grad log q - grad log p)(x)] + lambda Z_m,   x = mu(Z_m) + S eps
        Z_m <- Z_m - h Psi b_m + sqrt(2 lambda h Psi) xi_m,   Psi = 1 / sqrt(running mean over particles of b^2)

    grad log q is exact: q is a finite mixture.  Both steps use the same draws, one evaluation of the target's score
    each, and start from the same state; the paper moves theta first.  Its constant gamma inside log q (a regulariser
    for the theory) is 0 here, and the standard normal p_0 of the KL term is this suite's choice.

    Args:
        particles: M.
        samples: L, draws eps per particle and iteration.
        latent_dim: d_z, dimension of a particle; 0: that of x (needed by ``const`` and ``skip``).
        kernel: mean of k: ``const`` z, ``push`` f(z), ``skip`` z + f(z), ``lskip`` W z + f(z).
        covariance: of k: ``diagonal``; ``full``, the matrix exponential of a symmetric matrix; or ``network``, standard
            deviations that f gives as a second half of its outputs, as in the code's Bayesian neural nets.
        hidden: widths of f.
        log_var: initial log variance of k, if it does not depend on z.
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
        kernel: KernelMean = "skip",
        covariance: Literal["diagonal", "full", "network"] = "diagonal",
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
        if kernel == "const" and covariance == "network":
            raise UserError(
                "method.kernel=const has no network to give standard deviations", "choose another covariance"
            )
        if kernel == "const":
            refuse_unused(self, "kernel=const", hidden=tuple(hidden))
        if covariance == "network":
            refuse_unused(self, "covariance=network", log_var=log_var)
        sizes = (target.dim, latent_dim, kernel, tuple(hidden))
        self.k: ParticleKernel = (
            NetworkKernel(*sizes) if covariance == "network" else ConstantKernel(*sizes, covariance == "full", log_var)
        )
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
        moments, pull_back = torch.func.vjp(self.k.moments, Z)  # type: ignore[misc]
        eps = noise.normal(M, self.samples, self.target.dim)
        x = self.k.draw(tuple(moment.unsqueeze(1) for moment in moments), eps).flatten(0, 1)
        fixed = x.detach()
        difference = self.k.score(fixed, moments) - p.score(fixed).detach()
        pulled = self.k.pulled(difference.view(M, self.samples, -1), eps)
        drift = pull_back(pulled)[0].detach() + self.temperature * Z
        changed = self._langevin(drift, noise.normal(M, d_z), clock)
        return (difference * x).sum(-1).mean(), changed

    def _langevin(self, drift: Tensor, xi: Tensor, clock: Clock) -> dict[str, Tensor]:
        # the first value stands for itself: a running mean that began at 0 would make huge first steps
        weight = torch.where(clock.step == 0, 0.0, self.smoothing)
        mean_square = weight * self.mean_square + (1 - weight) * drift.square().mean(0)
        h = self.lr_particles / (mean_square.sqrt() + PRECONDITIONER_FLOOR)
        moved = self.particles - h * drift + torch.sqrt(2 * self.temperature * h) * xi
        return {"particles": moved, "mean_square": mean_square}

    def operations(self) -> dict[str, str]:
        return {"mixture_score": mixture_backend(self.particles) if isinstance(self.k, ConstantKernel) else "torch"}

    def log_prob(self, x: Tensor) -> Tensor:
        """Exact log q of the finite mixture, [..., d] -> [...]."""
        found = self.k.log_prob(x.reshape(-1, x.shape[-1]), self.k.moments(self.particles))
        return found.reshape(x.shape[:-1])

    def mixing(self, n: int, noise: Noise) -> Tensor:
        """n particles drawn with replacement, [n, d_z]."""
        index = pick(n, len(self.particles), noise)
        return self.particles[index]

    def conditional(self, z: Tensor) -> Distribution:
        """k(x | z), batch shape z.shape[:-1], event shape [d]."""
        return self.k.conditional(z)

    def sample(self, n: int, noise: Noise) -> Tensor:
        moments = self.k.moments(self.mixing(n, noise))
        return self.k.draw(moments, noise.normal(n, self.target.dim))
