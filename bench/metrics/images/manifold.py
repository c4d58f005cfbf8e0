"""Precision and recall by nearest-neighbour balls (Kynkaanniemi et al. 2019, arXiv:1904.06991)."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.metrics.mmd import squared_distances

CHUNK = 1000
"""Rows of a distance matrix at a time."""


def squared_radii(x: Tensor, k: int) -> Tensor:
    """Squared distance of every row of [n, d] to its k-th nearest other row, [n], float64."""
    x = x.double()
    # The nearest of all is the row itself.
    return torch.cat([squared_distances(part, x).kthvalue(k + 1, dim=1).values for part in x.split(CHUNK)])


def covered(x: Tensor, by: Tensor, k: int) -> float:
    """Share of the rows of [n, d] inside a ball around a row of ``by`` [m, d] that reaches to its k-th neighbour.

    Precision is the share of generated images covered by real ones, recall the reverse.
    """
    x, by = x.double(), by.double()
    reach = squared_radii(by, k)
    inside = [(squared_distances(part, by) <= reach).any(1) for part in x.split(CHUNK)]
    return float(torch.cat(inside).double().mean())
