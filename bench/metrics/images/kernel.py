"""Kernel distance: an unbiased squared MMD with a cubic kernel (Binkowski et al. 2018, arXiv:1801.01401)."""

from __future__ import annotations

import torch
from torch import Generator, Tensor


def kernel_distance(x: Tensor, y: Tensor) -> float:
    """Unbiased MMD^2 of [n, d] and [m, d] under k(x, y) = (x . y / d + 1)^3; may be below zero."""
    x, y = x.double(), y.double()
    xx, yy, xy = ((a @ b.T / x.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    n, m = len(x), len(y)
    within = (xx.sum() - xx.trace()) / (n * (n - 1)) + (yy.sum() - yy.trace()) / (m * (m - 1))
    return float(within - 2 * xy.mean())


def subset_distances(x: Tensor, y: Tensor, subsets: int, size: int, random: Generator) -> Tensor:
    """``kernel_distance`` between random subsets of ``size`` rows of each (less if there are fewer), [subsets]."""
    size = min(size, len(x), len(y))
    rows = [[torch.randperm(len(z), generator=random)[:size].to(z.device) for z in (x, y)] for _ in range(subsets)]
    return torch.tensor([kernel_distance(x[i], y[j]) for i, j in rows], dtype=torch.float64)
