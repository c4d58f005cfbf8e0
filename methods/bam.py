"""Batch and match: a full-rank Gaussian by closed-form score matching (Cai et al., ICML 2024, arXiv:2402.14758)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bench.checks import require_positive
from bench.registry import register
from methods.base import Clock, Noise, Player
from methods.gaussian import GaussianFamily
from methods.parts.symmetric import cholesky
from targets.base import Target


@register("method", "bam", source="Cai et al., ICML 2024, arXiv:2402.14758")
class BaM(GaussianFamily):
    """Batch and match (BaM): N(m, S) by score matching in closed form, without a step size to tune.

    Each iteration minimises the score-based divergence on a batch from q_t plus KL(q_t || q) / lambda_t: one Riccati
    equation.  Exact on a Gaussian target in the limit of large lambda and batch > d.

    Args:
        batch: B, draws (and scores) per iteration.
        rate: lambda_t = rate B d / (t + 1); the paper's schedule for rate 1.
        scale: the initial q is N(m, scale^2 I), its mean m a draw of N(0, scale^2 I).
    """

    paper_name = "BaM"
    needs = frozenset({"score"})
    capturable = False  # an eigendecomposition waits for the host
    cheap = {"batch": 16}

    def __init__(self, target: Target, *, batch: int = 32, rate: float = 1.0, scale: float = 1.0) -> None:
        super().__init__(target)
        require_positive(batch=batch, rate=rate, scale=scale)
        self.batch, self.rate = batch, rate
        self.mean = nn.Parameter(torch.randn(target.dim) * scale)
        self.tril = nn.Parameter(torch.eye(target.dim) * scale)

    def scale_tril(self) -> Tensor:
        return self.tril

    def players(self) -> Sequence[Player]:
        return [Player("q", ("mean", "tril"), update=self.match)]

    def match(self, noise: Noise, clock: Clock) -> dict[str, Tensor]:
        """The update of mean and covariance (paper, eqs. 9 to 14)."""
        p = self.target.subsample(noise)
        z = self.sample(self.batch, noise)
        strength = self.rate * self.batch * self.target.dim / (clock.step + 1)
        mean, tril = match_scores(self.mean, self.tril, z, p.score(z), strength)
        return {"mean": mean, "tril": tril}


def match_scores(mean: Tensor, tril: Tensor, z: Tensor, g: Tensor, strength: Tensor) -> tuple[Tensor, Tensor]:
    """One step of batch and match.

    Args:
        mean, tril: m_t [d] and the Cholesky factor of S_t [d, d].
        z, g: draws of q_t and scores of p there, [B, d] each.
        strength: lambda_t, scalar tensor.

    Returns:
        the new mean and Cholesky factor; NaN where a factorisation fails.
    """
    z_bar, g_bar = z.mean(0), g.mean(0)
    z_c, g_c = z - z_bar, g - g_bar
    share, n = strength / (1 + strength), len(z)
    # U = lambda Cov(g) + share g_bar g_bar^T;  V = S_t + lambda Cov(z) + share (m_t - z_bar)(m_t - z_bar)^T
    shift = mean - z_bar
    v = tril @ tril.T + strength * (z_c.T @ z_c) / n + share * torch.outer(shift, shift)
    half = cholesky(v)
    # S U S + S = V has the solution S = 2 L (I + (I + 4 L^T U L)^(1/2))^-1 L^T with V = L L^T
    gl, gl_bar = g_c @ half, g_bar @ half
    s = strength * (gl.T @ gl) / n + share * torch.outer(gl_bar, gl_bar)
    values, vectors = eigh(s)
    root = half @ vectors * torch.sqrt(2 / (1 + torch.sqrt(1 + 4 * values.clamp(min=0.0))))
    covariance = root @ root.T
    new_mean = (mean + strength * (covariance @ g_bar + z_bar)) / (1 + strength)
    return new_mean, cholesky(covariance)


def eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of a symmetric matrix, NaN for a non-finite one (LAPACK would stop all seeds)."""
    finite = torch.isfinite(matrix).all()
    values, vectors = torch.linalg.eigh(
        torch.where(finite, matrix, torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device))
    )
    return torch.where(finite, values, torch.nan), vectors
