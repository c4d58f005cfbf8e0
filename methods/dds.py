"""DDS: a denoising diffusion sampler (Vargas, Grathwohl & Doucet, ICLR 2023, arXiv:2302.13834)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bench.checks import require_positive
from bench.errors import UserError
from bench.registry import register
from methods.base import Clock, Method, Noise, Player
from methods.parts.families import mlp
from methods.parts.optim import Adam, staircase
from targets.base import Target

OFFSET = 0.008
"""Keeps the first noise level away from 0."""


class Drift(nn.Module):
    """f_theta(k, y) = a(k, y) + b(k) * grad log p(y): two nets, both zero at the start.

    Args:
        dim: d.
        hidden: widths of a (b: the first of them).
        steps: K.
        frequencies: of the features sin, cos(pi 2^j t) of time t = k / K in [0, 1].
    """

    def __init__(self, dim: int, hidden: tuple[int, ...], steps: int, frequencies: int = 4) -> None:
        super().__init__()
        angles = [[math.pi * 2**j * (k / steps) for j in range(frequencies)] for k in range(steps + 1)]
        features = [[g(angle) for g in (math.sin, math.cos) for angle in row] for row in angles]
        self.register_buffer("features", torch.tensor(features, dtype=torch.float64), persistent=False)
        self.state = mlp(dim + 2 * frequencies, hidden, dim)
        self.gate = mlp(2 * frequencies, hidden[:1], dim)
        with torch.no_grad():
            for net in (self.state, self.gate):
                last: nn.Linear = net[-1]  # type: ignore[assignment]
                last.weight.zero_()
                last.bias.zero_()

    def forward(self, k: int, y: Tensor, score: Tensor) -> Tensor:
        features = self.get_buffer("features")[k].to(y.dtype)
        both = torch.cat([y, features.expand(*y.shape[:-1], -1)], dim=-1)
        out: Tensor = self.state(both) + self.gate(features) * score
        return out


@register("method", "dds", source="Vargas, Grathwohl & Doucet, ICLR 2023, arXiv:2302.13834")
class DDS(Method):
    """Denoising diffusion sampler: the reverse of a discretised Ornstein-Uhlenbeck process with a learned drift.

    With lambda_k = 1 - sqrt(1 - alpha_k), y_K ~ N(0, sigma^2 I) and

        y_{k-1} = sqrt(1 - alpha_k) y_k + 2 sigma^2 lambda_k f_theta(k, y_k) + sigma sqrt(alpha_k) eps_k

    theta minimises the KL divergence of path measures, up to log Z,

        E[ sum_k 2 sigma^2 lambda_k^2 / alpha_k |f_theta(k, y_k)|^2 + log N(y_0; 0, sigma^2 I) - log p(y_0) ] >= -log Z.

    With f = 0 the process is stationary.  No density of y_0 is known, so bounds on log q do not apply.

    Args:
        steps: K; unrolled into the traced graph.
        batch: paths per step.
        hidden: widths of the drift's nets.
        sigma: sd of the stationary law; should cover the target.
        alpha_max: largest alpha; sqrt(alpha_k) = sqrt(alpha_max) cos^2(pi/2 (1 - k/K + s) / (1 + s)), so that steps are
            small near the target.
        score_clip: bound on every coordinate of the score given to the drift.
        lr, decay, decay_every: Adam and its staircase.
        clip: largest gradient norm.
    """

    paper_name = "DDS"
    needs = frozenset({"log_prob"})
    cheap = {"steps": 4, "batch": 64, "hidden": (16,), "alpha_max": 0.7, "lr": 2e-2, "sigma": 1.5}

    def __init__(
        self,
        target: Target,
        *,
        steps: int = 32,
        batch: int = 300,
        hidden: tuple[int, ...] = (64, 64),
        sigma: float = 2.0,
        alpha_max: float = 0.3,
        score_clip: float = 100.0,
        lr: float = 1e-3,
        decay: float = 0.9,
        decay_every: int = 1000,
        clip: float = 1.0,
    ) -> None:
        super().__init__(target)
        require_positive(steps=steps, batch=batch, hidden=hidden, sigma=sigma)
        require_positive(score_clip=score_clip, lr=lr, decay=decay, decay_every=decay_every, clip=clip)
        if not 0 < alpha_max < 1:
            raise UserError(
                f"method.alpha_max={alpha_max} must be above 0 and below 1", "change the override or leave it out"
            )
        self.f = Drift(target.dim, tuple(hidden), steps)
        self.steps, self.batch, self.sigma, self.score_clip = steps, batch, sigma, score_clip
        self.lr, self.schedule, self.clip = lr, staircase(decay, decay_every), clip
        phases = [(1 - k / steps + OFFSET) / (1 + OFFSET) for k in range(1, steps + 1)]
        self.alphas = [alpha_max * math.cos(0.5 * math.pi * phase) ** 4 for phase in phases]

    def players(self) -> Sequence[Player]:
        return [Player("f", ("f",), loss=self.loss, optimiser=Adam(self.lr), schedule=self.schedule, clip=self.clip)]

    def paths(self, n: int, noise: Noise, p: Target) -> tuple[Tensor, Tensor]:
        """y_0 of n paths, [n, d], and the cost of their controls, [n] (the sum over k above)."""
        y = self.sigma * noise.normal(n, self.target.dim)
        cost = y.new_zeros(n)
        for k in range(self.steps, 0, -1):
            alpha = self.alphas[k - 1]
            shrink = math.sqrt(1 - alpha)
            # a constant, so that the loss needs no second derivatives of log p
            score = p.score(y.detach()).detach().clamp(-self.score_clip, self.score_clip)
            f = self.f(k, y, score)
            cost = cost + 2 * self.sigma**2 * (1 - shrink) ** 2 / alpha * f.square().sum(-1)
            drift = 2 * self.sigma**2 * (1 - shrink) * f
            y = shrink * y + drift + self.sigma * math.sqrt(alpha) * noise.normal(n, self.target.dim)
        return y, cost

    def loss(self, noise: Noise, clock: Clock) -> Tensor:
        """The mean over paths of log dQ/dP - log Z."""
        p = self.target.subsample(noise)
        return self.path_divergence(self.batch, noise, p).mean()

    def path_divergence(self, n: int, noise: Noise, p: Target) -> Tensor:
        """log dQ/dP - log Z without its martingale part, whose mean is 0, for n paths, [n]."""
        y, cost = self.paths(n, noise, p)
        constant = 0.5 * self.target.dim * math.log(2 * math.pi * self.sigma**2)
        return cost - 0.5 * y.square().sum(-1) / self.sigma**2 - constant - p.log_prob(y)

    def sample(self, n: int, noise: Noise) -> Tensor:
        return self.paths(n, noise, self.target)[0]
