"""VDM's noise schedule: gamma(t) = -log snr(t), increasing on [0, 1], its end points and interior fixed or learned."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Interior = Literal["linear", "learned"]


class Ends(nn.Module):
    """gamma(0) and gamma(1), free numbers whose difference stays positive."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low = nn.Parameter(torch.tensor(float(low)))
        self.log_range = nn.Parameter(torch.tensor(float(high - low)).log())

    def forward(self) -> tuple[Tensor, Tensor]:
        """gamma(0) and gamma(1) - gamma(0), 0-dim."""
        return self.low, self.log_range.exp()


class Monotone(nn.Module):
    """An increasing function of [0, 1] onto [0, 1] and its derivative: a network with positive weights, normalised.

    f(t) = a t + sum_j c_j sigmoid(b_j t + d_j) with a, b_j, c_j > 0, up to scale and offset (Kingma et al. 2021,
    appendix H, with one hidden layer).  At the start it is close to t.

    Args:
        width: hidden units.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.straight = nn.Parameter(torch.zeros(1))
        self.inner, self.outer = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.full((width,), -4.0))
        self.offset = nn.Parameter(torch.randn(width))

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """f(t) and f'(t); [n] -> [n], [n]."""
        low, high = self._value(t.new_zeros(1)), self._value(t.new_ones(1))
        a, b, c = (functional.softplus(p) for p in (self.straight, self.inner, self.outer))
        s = torch.sigmoid(b * t.unsqueeze(-1) + self.offset)
        slope = a + (c * b * s * (1 - s)).sum(-1)
        return (self._value(t) - low) / (high - low), slope / (high - low)

    def _value(self, t: Tensor) -> Tensor:
        a, b, c = (functional.softplus(p) for p in (self.straight, self.inner, self.outer))
        return a * t + (c * torch.sigmoid(b * t.unsqueeze(-1) + self.offset)).sum(-1)


class Straight(nn.Module):
    """f(t) = t."""

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """f(t) and f'(t); [n] -> [n], [n]."""
        return t, torch.ones_like(t)
