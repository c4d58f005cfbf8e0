"""Gaussian mixtures with full covariances: the base class of several 2-D targets (not itself registered)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from targets.base import Target

Matrix = Sequence[Sequence[float]]


class GaussianMixture(Target):
    """p(x) = sum_k w_k N(x; m_k, S_k), normalised, with closed-form score and exact draws.

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
        half_log_det = chol.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        self.dim = d
        for name, value in {
            "means": m,
            "precisions": torch.cholesky_inverse(chol),
            "cholesky": chol,
            "weights": w,
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
        log_joint, scores = self._components(x)
        return (torch.softmax(log_joint, dim=-1).unsqueeze(-1) * scores).sum(-2)

    def sample(self, n: int, generator: Generator) -> Tensor:
        """n exact draws, [n, d] (CPU, float32)."""
        component = torch.multinomial(self.weights.cpu().double(), n, replacement=True, generator=generator)
        # float64 noise whatever the target's dtype, so that a float64 target yields the same draws
        noise = torch.randn(n, self.dim, generator=generator, dtype=torch.float64)
        scale, mean = self.cholesky.cpu().double()[component], self.means.cpu().double()[component]
        return (mean + torch.einsum("nde,ne->nd", scale, noise)).float()
