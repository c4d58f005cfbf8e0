"""Gaussian mixtures with full covariances: the base class of several 2-D targets (not itself registered)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Generator, Tensor

from targets.diffusion.noised import Diffusable
from targets.diffusion.schedule import Level, column

Matrix = Sequence[Sequence[float]]

MANY = 4096
"""From so many numbers on, the score of few components in few dimensions is computed coordinate by coordinate."""


def _dot(a: Sequence[Tensor], b: Sequence[Tensor] | Tensor) -> Tensor:
    """sum_i a_i b_i."""
    return reduce(torch.add, (u * v for u, v in zip(a, b, strict=True)))


class GaussianMixture(Diffusable):
    """p(x) = sum_k w_k N(x; m_k, S_k), normalised, with closed-form score, noised marginals and exact draws.

    Args:
        means: m_k, K rows of d numbers.
        covariances: S_k, K symmetric positive definite d x d matrices.
        weights: w_k > 0 summing to one; equal ones when None.

    The parameters become buffers of the default dtype (computed in float64, rounded once).
    """

    log_z = 0.0

    means: Tensor
    precisions: Tensor
    cholesky: Tensor
    weights: Tensor
    log_constants: Tensor
    axes: Tensor
    variances: Tensor

    def __init__(self, means: Matrix, covariances: Sequence[Matrix], weights: Sequence[float] | None = None) -> None:
        super().__init__()
        m = torch.tensor(means, dtype=torch.float64)
        s = torch.tensor(covariances, dtype=torch.float64)
        k, d = m.shape
        w = torch.full((k,), 1.0 / k, dtype=torch.float64)
        if weights is not None:
            w = torch.tensor(weights, dtype=torch.float64)
        if s.shape != (k, d, d) or w.shape != (k,):
            raise ValueError(
                f"{k} means of dimension {d} with covariances {tuple(s.shape)} and weights {tuple(w.shape)}"
            )
        if not torch.isclose(w.sum(), torch.ones((), dtype=torch.float64)) or bool((w <= 0).any()):
            raise ValueError("mixture weights must be positive and sum to one")
        chol = torch.linalg.cholesky(s)
        variances, axes = torch.linalg.eigh(s)
        half_log_det = chol.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        self.dim = d
        for name, value in {
            "means": m,
            "precisions": torch.cholesky_inverse(chol),
            "cholesky": chol,
            "weights": w,
            "axes": axes,
            "variances": variances,
            "log_constants": w.log() - 0.5 * d * math.log(2 * math.pi) - half_log_det,
        }.items():
            self.register_buffer(name, value.to(torch.get_default_dtype()))

    def _components(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log w_k N(x; m_k, S_k), [..., K], and the component scores -S_k^{-1}(x - m_k), [..., K, d]."""
        offsets = x.unsqueeze(-2) - self.means
        scores = -torch.einsum("...kd,kde->...ke", offsets, self.precisions)
        return self.log_constants + 0.5 * (offsets * scores).sum(-1), scores

    def log_prob(self, x: Tensor) -> Tensor:
        """Normalised log density; [..., d] -> [...] (nats)."""
        return torch.logsumexp(self._components(x)[0], dim=-1)

    def score(self, x: Tensor) -> Tensor:
        """sum_k r_k(x) S_k^{-1}(m_k - x) with responsibilities r_k; [..., d] -> [..., d]."""
        if x.numel() >= MANY and self.dim <= 3 and len(self.means) <= 4:
            return torch.stack(self._score_by_coordinate(x.unbind(-1)), dim=-1)
        log_joint, scores = self._components(x)
        return (torch.softmax(log_joint, dim=-1).unsqueeze(-1) * scores).sum(-2)

    def _score_by_coordinate(self, x: Sequence[Tensor]) -> list[Tensor]:
        """``score`` from and to coordinates [...]: more operations, but none along a dimension of 2 or 3 (slow)."""
        components = []
        for constant, mean, precision in zip(self.log_constants, self.means, self.precisions, strict=True):
            offsets = [a - m for a, m in zip(x, mean, strict=True)]
            scores = [_dot(offsets, row).neg() for row in precision]
            components.append((constant + 0.5 * _dot(offsets, scores), scores))
        highest = reduce(torch.maximum, (log_joint for log_joint, _ in components)).detach()
        weights = [torch.exp(log_joint - highest) for log_joint, _ in components]
        total = reduce(torch.add, weights)
        return [_dot(weights, [s[a] for _, s in components]) / total for a in range(len(x))]

    def _noised_components(self, x: Tensor, alpha: Level, sigma: Level) -> tuple[Tensor, Tensor]:
        """As ``_components`` with means alpha m_k and covariances alpha^2 S_k + sigma^2 I, diagonal in S_k's axes."""
        a, v = column(alpha, x).unsqueeze(-1), column(sigma, x).unsqueeze(-1).square()
        v = a.square() * self.variances + v
        along = torch.einsum("...kd,kde->...ke", x.unsqueeze(-2) - a * self.means, self.axes)
        log_joint = self.weights.log() - 0.5 * (along.square() / v + (2 * math.pi * v).log()).sum(-1)
        return log_joint, -torch.einsum("...ke,kde->...kd", along / v, self.axes)

    def noised_log_prob(self, x: Tensor, alpha: Level, sigma: Level) -> Tensor:
        """Log density of alpha x_0 + sigma eps; [..., d] -> [...] (nats)."""
        return torch.logsumexp(self._noised_components(x, alpha, sigma)[0], dim=-1)

    def noised_score(self, x: Tensor, alpha: Level, sigma: Level) -> Tensor:
        """Its gradient, closed form; [..., d] -> [..., d]."""
        log_joint, scores = self._noised_components(x, alpha, sigma)
        return (torch.softmax(log_joint, dim=-1).unsqueeze(-1) * scores).sum(-2)

    def sample(self, n: int, generator: Generator) -> Tensor:
        """n exact draws, [n, d] (CPU, float32)."""
        component = torch.multinomial(self.weights.cpu().double(), n, replacement=True, generator=generator)
        # float64 noise whatever the target's dtype, so that a float64 target yields the same draws
        noise = torch.randn(n, self.dim, generator=generator, dtype=torch.float64)
        scale, mean = self.cholesky.cpu().double()[component], self.means.cpu().double()[component]
        return (mean + torch.einsum("nde,ne->nd", scale, noise)).float()
