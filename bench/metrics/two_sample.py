"""How often a two-sample test tells q from p: a permutation test on a fused set of kernels (MMD-FUSE)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Generator, Tensor

from bench.metrics.base import Fitted, Metric, Value
from bench.registry import register
from methods.base import Method
from targets.base import Target


def bandwidths(distances: Tensor, number: int) -> Tensor:
    """``number`` values evenly spaced from half the 5 % to twice the 95 % quantile of the pairwise distances [N, N]."""
    n = len(distances)
    pairs = n * (n - 1) // 2
    # every pair stands twice in the matrix, after the n zeros of its diagonal
    low, high = (distances.flatten().kthvalue(n + 2 * int(pairs * share) + 1).values for share in (0.05, 0.95))
    return torch.linspace(float(low) / 2, float(high) * 2, number, dtype=distances.dtype, device=distances.device)


def kernels(z: Tensor, number: int) -> Iterator[Tensor]:
    """Laplace kernels exp(-sqrt(2) |x - y|_1 / h), then Gaussian ones exp(-|x - y|^2 / (2 h^2)), of the rows [N, d].

    Yields 2 ``number`` matrices [N, N], one at a time; the diagonals are zero, as the unbiased MMD needs them.
    """
    l1 = torch.cdist(z, z, p=1)
    for h in bandwidths(l1, number):
        yield (l1 * (-math.sqrt(2) / float(h))).exp_().fill_diagonal_(0)
    l2 = torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist")
    scales = bandwidths(l2, number)
    l2.square_()
    for h in scales:
        yield (l2 * (-0.5 / float(h) ** 2)).exp_().fill_diagonal_(0)


def permuted_mmd2(kernel: Tensor, members: Tensor) -> Tensor:
    """Unbiased MMD^2 between the rows marked 1 and those marked 0 in each column of ``members``.

    Args:
        kernel: [2n, 2n] with zero diagonal.
        members: [2n, B] of 0 and 1, n of each in every column.

    Returns:
        [B].
    """
    n = len(kernel) // 2
    within = (members * (kernel @ members)).sum(0)
    sums = kernel.sum(1)
    total, touching = sums.sum(), sums @ members
    other, across = total - 2 * touching + within, touching - within
    return (within + other) / (n * (n - 1)) - 2 * across / n**2


def fused_p_value(x: Tensor, y: Tensor, permutations: int, number: int, generator: Generator) -> float:
    """p-value of the fused test of equally many draws x, y [n, d].

    The statistic is the log mean over kernels k of exp(M_k) with M_k = lambda^3 MMD_k^2 / sqrt(sum_ij k_ij^2),
    lambda = sqrt(n (n - 1)), as in the authors' package (antoninschrab/mmdfuse).  The test is exact at any level
    alpha for which (permutations + 1) alpha is whole.
    """
    n = len(x)
    pooled = torch.cat([x, y])
    order = torch.rand(2 * n, permutations, generator=generator).argsort(0)
    members = torch.cat([torch.arange(2 * n)[:, None], order], 1) < n  # the first column: the samples as they are
    marks = members.to(pooled.device, pooled.dtype)
    scale = (n * (n - 1)) ** 1.5
    powers = [permuted_mmd2(k, marks).double() * scale / float(k.norm()) for k in kernels(pooled, number)]
    fused = torch.logsumexp(torch.stack(powers), 0)
    return float((fused >= fused[0]).double().mean())


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

    published_as: ClassVar[tuple[tuple[str, ...], ...]] = (("rejection_rate", "mmdfuse-100"),)

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
            p = fused_p_value(x.float(), y.float(), self.permutations, self.number, q.generator(f"permutations {test}"))
            rejected += p <= self.level
        return Value(rejected / self.tests, self.level)
