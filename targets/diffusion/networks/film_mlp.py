"""A residual multilayer perceptron whose blocks are scaled and shifted by the time (FiLM)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

PERIOD = 10_000.0


def time_features(t: Tensor, count: int) -> Tensor:
    """Sines and cosines of t at ``count`` / 2 geometric frequencies from 1 to 1 / 10,000; [...] -> [..., count]."""
    exponents = torch.arange(count // 2, device=t.device, dtype=t.dtype) / (count // 2)
    angles = t.unsqueeze(-1) * torch.exp(-math.log(PERIOD) * exponents)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class _Block(nn.Module):
    """x + W2 silu(W1 silu((1 + a(t)) norm(x) + b(t)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.film = nn.Linear(width, 2 * width)
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        a, b = self.film(time).chunk(2, dim=-1)
        h = functional.silu(self.norm(x) * (1 + a) + b)
        return x + self.second(functional.silu(self.first(h)))


class FiLMMLP(nn.Module):
    """eps(x, t) of rows in R^d, for small images and 2-D sets.

    The last layer starts at zero.  At d = 64 the defaults have 840,768 parameters.

    Args:
        shape: of the arrays that rows flatten; d is its product.
        hidden: width of the blocks.
        blocks: how many.
        features: sines and cosines of the time.
    """

    broadcasts_time = True
    """t may have any shape that broadcasts against x's leading one; what depends on t alone is computed once."""

    def __init__(self, shape: tuple[int, ...], *, hidden: int = 256, blocks: int = 3, features: int = 64) -> None:
        super().__init__()
        dim = math.prod(shape)
        self.features = features
        self.time, self.inputs = nn.Linear(features, hidden), nn.Linear(dim, hidden)
        self.blocks = nn.ModuleList(_Block(hidden) for _ in range(blocks))
        self.outputs = nn.Linear(hidden, dim)
        nn.init.zeros_(self.outputs.weight)
        nn.init.zeros_(self.outputs.bias)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """x [..., d] and t, 0 .. T - 1, broadcasting against [...] -> [..., d]."""
        time = functional.silu(self.time(time_features(t, self.features).to(x.dtype)))
        h = self.inputs(x)
        for block in self.blocks:
            h = block(h, time)
        out: Tensor = self.outputs(functional.silu(h))
        return out
