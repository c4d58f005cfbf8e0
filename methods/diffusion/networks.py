"""Networks of distilled samplers: small residuals on a teacher, zero at the start, so that training begins at it."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


class Stacked(nn.Module):
    """L networks of one shape side by side, d -> hidden (SiLU) -> d, their last layers zero.

    One batched product per layer evaluates all of them; ``one`` evaluates a single network.

    Args:
        count: L.
        dim: d.
        hidden: widths of the hidden layers.
    """

    def __init__(self, count: int, dim: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        sizes = list(pairwise((dim, *hidden, dim)))
        for i, (fan_in, fan_out) in enumerate(sizes):
            bound = 0.0 if i == len(sizes) - 1 else 1 / math.sqrt(fan_in)  # as nn.Linear; the last layer is zero
            self.weights.append(nn.Parameter((2 * torch.rand(count, fan_in, fan_out) - 1) * bound))
            self.biases.append(nn.Parameter((2 * torch.rand(count, 1, fan_out) - 1) * bound))

    def forward(self, x: Tensor) -> Tensor:
        """Row block l through network l; [L, n, d] -> [L, n, d]."""
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            # a copy: parameters of several seeds lie apart, and the product would copy them for more than one seed
            packed = weight.clone(memory_format=torch.contiguous_format)
            x = torch.bmm(functional.silu(x) if i else x, packed) + bias
        return x

    def one(self, x: Tensor, l: int) -> Tensor:
        """All rows through network l; [n, d] -> [n, d]."""
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = (functional.silu(x) if i else x) @ weight[l] + bias[l]
        return x


class Conditioned(nn.Module):
    """One network of x and of ``levels`` noise levels, d -> hidden (SiLU) -> d, its last layer zero.

    A level enters as its half-log-SNR lambda and as sines and cosines of it at octaves of its range.

    Args:
        dim: d.
        levels: how many levels condition the network.
        hidden: widths of the hidden layers.
        octaves: frequencies per level.
    """

    def __init__(self, dim: int, levels: int, hidden: tuple[int, ...], octaves: int = 4) -> None:
        super().__init__()
        self.octaves = octaves
        sizes = list(pairwise((dim + levels * (1 + 2 * octaves), *hidden, dim)))
        self.layers = nn.ModuleList(nn.Linear(*size) for size in sizes)
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def features(self, half_log_snr: Tensor) -> Tensor:
        """lambda / 4 (about [-1, 1.2] for the usual schedules) and its octaves; [...] -> [..., 1 + 2 octaves]."""
        scaled = (half_log_snr / 4).unsqueeze(-1)
        angles = scaled * (math.pi / 2) * 2.0 ** torch.arange(self.octaves, device=scaled.device, dtype=scaled.dtype)
        return torch.cat([scaled, angles.sin(), angles.cos()], dim=-1)

    def forward(self, x: Tensor, *half_log_snrs: Tensor) -> Tensor:
        """x [..., n, d] and levels [...] that broadcast against x's leading dimensions -> [..., n, d]."""
        rows = [self.features(level.expand(x.shape[:-1])) for level in half_log_snrs]
        x = torch.cat([x, *rows], dim=-1)
        for i, layer in enumerate(self.layers):
            x = layer(functional.silu(x) if i else x)
        return x
