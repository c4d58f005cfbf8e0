"""How often a two-sample test tells q from p: a permutation test on a fused set of kernels (MMD-FUSE)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Generator, Tensor

from bench.metrics.base import Fitted, Metric, Value
from bench.registry import register
from methods.base import Method
from targets.base import Target

BLOCK = 250
"""Rows per block of a kernel matrix on a CPU: a block and its products stay in a core's second-level cache."""
FIRST = 40
"""Permutations looked at before the others: most tests of equal laws are decided by then."""


def bandwidths(distances: Tensor, number: int) -> list[float]:
    """``number`` values evenly spaced from half the 5 % to twice the 95 % quantile of the distances [P].

    Distances of 0, those between equal rows, count as the median, as in the authors' package: a bandwidth of 0 is none.
    """
    if (distances == 0).any():
        distances = torch.where(distances == 0, distances.median(), distances)
        distances = torch.where(distances == 0, 1.0, distances)  # more than half of the rows' pairs are equal
    ranks = [int(len(distances) * share) for share in (0.05, 0.95)]
    low, high = np.partition(distances.cpu().numpy(), ranks)[ranks]  # both in one pass
    return torch.linspace(float(low) / 2, float(high) * 2, number, dtype=distances.dtype).tolist()


@dataclass(frozen=True)
class Kernels:
    """Laplace kernels exp(-sqrt(2) |x - y|_1 / h) and Gaussian ones exp(-|x - y|^2 / (2 h^2)), and their bandwidths."""

    laplace: list[float]
    gauss: list[float]

    @classmethod
    def of(cls, z: Tensor, number: int) -> Kernels:
        """``number`` of each kind, with the bandwidths that the rows of z [N, d] suggest."""
        return cls(*(bandwidths(torch.pdist(z, p), number) for p in (1.0, 2.0)))

    def between(self, a: Tensor, b: Tensor) -> Iterator[Tensor]:
        """The matrices k(a_i, b_j), one at a time; [n, d] and [m, d] -> [n, m]."""
        distance = torch.cdist(a, b, p=1)
        for h in self.laplace:
            yield (distance * (-math.sqrt(2) / h)).exp_()
        distance = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square_()
        for h in self.gauss:
            yield (distance * (-0.5 / h**2)).exp_()


def fused_statistics(z: Tensor, signs: Tensor, kernels: Kernels) -> Tensor:
    """The fused statistic of every column of ``signs``, which says by +1 and -1 which rows form the two samples.

    The log mean over kernels k of exp(M_k) with M_k = lambda^3 MMD_k^2 / sqrt(sum_{i != j} k_ij^2), lambda =
    sqrt(n (n - 1)), as in the authors' package (antoninschrab/mmdfuse).  With q = s' K s and t = 1' K 1 over i != j the
    sum of k within the samples is (t + q) / 2 and that across, each pair once, is (t - q) / 4, so that

        MMD^2 = (t + q) / (2 n (n - 1)) - (t - q) / (2 n^2).

    K is symmetric: blocks on and above its diagonal are made, used and forgotten.

    Args:
        z: the pooled sample, [2n, d].
        signs: [2n, B], n of each sign in every column.
        kernels: the kernels.

    Returns:
        [B], float64.
    """
    n, columns, number = len(z) // 2, signs.shape[1], len(kernels.laplace) + len(kernels.gauss)
    quadratic = torch.zeros(number, columns, dtype=torch.float64, device=z.device)
    totals, squares = torch.zeros(2, number, dtype=torch.float64, device=z.device)
    rows = BLOCK if z.device.type == "cpu" else len(z)
    parts = list(zip(z.split(rows), signs.split(rows), strict=True))
    for i, (a, s) in enumerate(parts):
        for b, t in parts[i:]:
            times = 1 if a is b else 2
            for m, k in enumerate(kernels.between(a, b)):
                if a is b:
                    k.fill_diagonal_(0)  # the unbiased MMD
                quadratic[m] += times * (s * (k @ t)).sum(0)
                totals[m] += times * k.sum()
                squares[m] += times * torch.linalg.vector_norm(k).square()
    t = totals[:, None]
    mmd2 = (t + quadratic) / (2 * n * (n - 1)) - (t - quadratic) / (2 * n**2)
    powers = mmd2 * (n * (n - 1)) ** 1.5 / squares.sqrt()[:, None]
    return torch.logsumexp(powers, 0) - math.log(number)


def fused_p_value(
    x: Tensor, y: Tensor, permutations: int, number: int, generator: Generator, level: float = 1.0
) -> float:
    """p-value of the fused test of equally many draws x, y [n, d]: the share of permutations at least as extreme.

    The test is exact at any level alpha for which (permutations + 1) alpha is whole.

    Args:
        x: one sample.
        y: the other.
        permutations: of the pooled sample; the samples as they are count as one more.
        number: bandwidths per kind of kernel.
        generator: draws the permutations.
        level: p-values above it need not be told apart: where the first permutations prove that p is above, the share
            among them that they prove is returned.
    """
    n = len(x)
    z = torch.cat([x, y])
    order = torch.rand(2 * n, permutations, generator=generator).argsort(0)
    members = torch.cat([torch.arange(2 * n)[:, None], order], 1) < n  # the first column: the samples as they are
    signs = members.to(z.device, z.dtype).mul_(2).sub_(1)
    kernels = Kernels.of(z, number)
    first = fused_statistics(z, signs[:, : FIRST + 1], kernels)
    extreme = int((first >= first[0]).sum())
    if permutations > FIRST and extreme / (permutations + 1) <= level:
        extreme += int((fused_statistics(z, signs[:, FIRST + 1 :], kernels) >= first[0]).sum())
    return extreme / (permutations + 1)


@register("metric", "mmd_rejection_rate", source="MMD-FUSE, Biggs et al. 2023, arXiv:2306.08777")
class MMDRejectionRate(Metric):
    """Share of 100 two-sample tests at level .05 that tell 1000 draws of q from 1000 of p; a perfect q is told at .05.

    A permutation test on the fused MMD of ten Laplace and ten Gaussian kernels (MMD-FUSE), as in PVI's Table 1, but
    with 199 permutations where the authors' package takes 2000: the level is the same, the power a little lower.  The
    floor is the level, which a permutation test keeps exactly.  The value is a proportion of ``tests``: its standard
    error is up to .05 with 100.

    Args:
        tests: tests, each on fresh draws of q and p.
        n: draws per side.
        permutations: of the pooled draws, per test.
        number: bandwidths per kernel.
        level: nominal level.
    """

    published_as: ClassVar[tuple[tuple[str, str], ...]] = (("rejection_rate", "mmdfuse-100"),)
    floor_is_noise: ClassVar[bool] = False
    """The floor is the value of a perfect q, not an error bar of the value."""

    def __init__(
        self, *, tests: int = 100, n: int = 1000, permutations: int = 199, number: int = 10, level: float = 0.05
    ) -> None:
        self.tests, self.n, self.permutations, self.number, self.level = tests, n, permutations, number, level

    def applies(self, method: Method, target: Target) -> str | None:
        return None if "sample" in target.provides else "the target has no exact sampler"

    @torch.no_grad()
    def __call__(self, q: Fitted) -> Value:
        rejected = 0
        for test in range(self.tests):
            x, y = q.draws(self.n, f"test q {test}"), q.truth(self.n, f"test truth {test}")
            if not bool(x.isfinite().all()):
                return Value(float("nan"))
            # in float32 whatever q's type: the order of permuted statistics needs no more
            chance = q.generator(f"permutations {test}")
            p = fused_p_value(x.float(), y.float(), self.permutations, self.number, chance, self.level)
            rejected += p <= self.level
        return Value(rejected / self.tests, self.level)
