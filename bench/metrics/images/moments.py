"""Mean and covariance of a stream of feature vectors, and the Frechet distance between two such pairs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Number, mean [d] and centred scatter sum (x - mean)(x - mean)^T [d, d] of feature vectors, float64.

    Merged by the update of Chan, Golub & LeVeque (1983, doi:10.1080/00031305.1983.10483115): sums of squares that are
    not centred would cancel where the mean is large.
    """

    n: int
    mean: Tensor
    scatter: Tensor

    @staticmethod
    def of(x: Tensor) -> Moments:
        """Of the rows of [n, d]."""
        x = x.double()
        mean = x.mean(0)
        return Moments(len(x), mean, (x - mean).T @ (x - mean))

    def merge(self, other: Moments) -> Moments:
        """Of both sets of vectors together."""
        n = self.n + other.n
        shift = other.mean - self.mean
        between = torch.outer(shift, shift) * (self.n * other.n / n)
        return Moments(n, self.mean + shift * (other.n / n), self.scatter + other.scatter + between)

    @property
    def covariance(self) -> Tensor:
        """Unbiased, [d, d]; needs two vectors."""
        return self.scatter / (self.n - 1)


def merged(parts: Iterable[Moments]) -> Moments:
    """Of the vectors of all parts together; there must be one."""
    return reduce(Moments.merge, parts)


def frechet(a: Moments, b: Moments) -> float:
    """Squared 2-Wasserstein distance of the Gaussians with these moments (Dowson & Landau 1982; Heusel et al. 2017).

    |m_a - m_b|^2 + tr(S_a) + tr(S_b) - 2 tr (S_a^{1/2} S_b S_a^{1/2})^{1/2}.  Two symmetric eigenproblems in float64:
    real and deterministic, where the square root of the unsymmetric S_a S_b is neither.  Eigenvalues below the rounding
    error of the largest count as zero, so that singular covariances (fewer vectors than d) do no harm, and the sum is
    at least 0.
    """
    values, vectors = _spectrum(a.covariance)
    root = vectors * values.sqrt()
    overlap = _clipped(torch.linalg.eigvalsh(root.T @ b.covariance @ root)).sqrt().sum()
    distance = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * overlap
    return float(distance.clamp(min=0))


def _spectrum(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Positive eigenvalues [r] and their vectors [d, r] of a covariance [d, d]."""
    values, vectors = torch.linalg.eigh(covariance)
    values = _clipped(values)
    return values[values > 0], vectors[:, values > 0]


def _clipped(values: Tensor) -> Tensor:
    """Ascending eigenvalues [r] with what is rounding error set to 0."""
    if len(values) == 0:
        return values
    limit = len(values) * torch.finfo(values.dtype).eps * values[-1].clamp(min=0)
    return torch.where(values > limit, values, 0.0)
