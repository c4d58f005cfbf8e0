"""Divergences of two discrete laws, in nats: grids and histograms share them."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def kl(log_a: Tensor, log_b: Tensor) -> Tensor:
    """KL(a || b) of two log probability vectors [n] -> scalar (nats); infinite where b is 0 and a is not."""
    a = log_a.exp()
    # Masks on the mass, not on its log: 0 * log(0 / 0) is 0, and a NaN stays visible.
    return torch.where(a == 0, 0.0, a * (log_a - log_b)).sum()


def js(log_a: Tensor, log_b: Tensor) -> Tensor:
    """Jensen-Shannon divergence (not its square root) of two log probability vectors, in [0, ln 2] nats.

    In logs because a density's masses underflow far from its modes; SciPy's also normalises them, which would hide
    a quadrature error.
    """
    middle = torch.logaddexp(log_a, log_b) - math.log(2)
    return (kl(log_a, middle) + kl(log_b, middle)) / 2


def js_of_shares(a: Tensor, b: Tensor) -> float:
    """``js`` of two vectors of shares (nats)."""
    return float(js(a.cpu().log(), b.cpu().log()))
