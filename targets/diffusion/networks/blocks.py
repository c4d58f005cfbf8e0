"""Blocks of image U-Nets: residual block, self-attention, resampling; what differs between published families."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.errors import UserError

Resampling = Literal["same", "down", "up"]


@dataclass(frozen=True)
class Family:
    """Where the published U-Nets differ.

    Attributes:
        scale_shift: the embedding scales and shifts the second normalisation instead of being added before it.
        factor: on the sum of a branch and its skip.
        resample: by a convolution ``between`` levels, padded evenly or on the far side only (``between_far``, as
            TensorFlow pads), or ``inside`` a residual block.
        least_per_group: channels per group of a normalisation, at least; 32 groups otherwise.
        eps: of the normalisations.
        sine_first, endpoint: order of sines and cosines, and whether the last frequency is 1/10000 itself.
        last_only: in the decoder only the last block of a level has self-attention.
        project: an identity skip around a resampling block has a 1 x 1 convolution, too.
    """

    scale_shift: bool = False
    factor: float = 1.0
    resample: Literal["between", "between_far", "inside"] = "between"
    least_per_group: int = 1
    eps: float = 1e-5
    sine_first: bool = False
    endpoint: bool = False
    last_only: bool = False
    project: bool = False

    def norm(self, channels: int) -> nn.GroupNorm:
        """Group normalisation of so many channels."""
        return nn.GroupNorm(min(32, channels // self.least_per_group), channels, self.eps)

    def embedding(self, t: Tensor, channels: int) -> Tensor:
        """Sines and cosines of t at geometric frequencies 1 .. 1/10000; [n] -> [n, channels]."""
        half = channels // 2
        exponent = torch.arange(half, device=t.device, dtype=t.dtype) / (half - int(self.endpoint))
        angle = t.unsqueeze(-1) * torch.exp(-math.log(10000) * exponent)
        parts = [angle.sin(), angle.cos()] if self.sine_first else [angle.cos(), angle.sin()]
        return torch.cat(parts, dim=-1)


class Attention(nn.Module):
    """Self-attention over pixels, softmax(q'k / sqrt(channels per head)) v, added to its input.

    Args:
        channels: of input and output.
        heads: their number; rows of ``qkv`` are ordered (q k v, head, channel).
        family: normalisation and factor.
    """

    def __init__(self, channels: int, heads: int, family: Family) -> None:
        super().__init__()
        self.heads, self.factor = heads, family.factor
        self.norm = family.norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, h, w] -> [n, c, h, w]."""
        n, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).view(n, 3, self.heads, c // self.heads, h * w).unbind(1)
        weights = (q.transpose(-1, -2) @ k * (self.heads / c) ** 0.5).softmax(-1)
        out = (v @ weights.transpose(-1, -2)).reshape(n, c, h, w)
        return (x + self.proj(out)) * self.factor


def resampled(x: Tensor, how: Resampling) -> Tensor:
    """Means of 2 x 2 pixels, or each pixel twice in both directions; [n, c, h, w]."""
    if how == "down":
        return functional.avg_pool2d(x, 2)
    return functional.interpolate(x, scale_factor=2.0, mode="nearest") if how == "up" else x


class Block(nn.Module):
    """Residual block of two 3 x 3 convolutions with the time embedding in between, then self-attention if wanted.

    Args:
        inputs, outputs: channels.
        embedding: its width.
        family: see ``Family``.
        heads: of the attention; 0 for none.
        how: resampling before the first convolution.
    """

    def __init__(
        self, inputs: int, outputs: int, embedding: int, family: Family, heads: int = 0, how: Resampling = "same"
    ) -> None:
        super().__init__()
        self.family, self.how = family, how
        self.norm0 = family.norm(inputs)
        self.conv0 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.affine = nn.Linear(embedding, outputs * (2 if family.scale_shift else 1))
        self.norm1 = family.norm(outputs)
        self.conv1 = nn.Conv2d(outputs, outputs, 3, padding=1)
        project = inputs != outputs or (how != "same" and family.project)
        self.skip: nn.Module = nn.Conv2d(inputs, outputs, 1) if project else nn.Identity()
        self.attention: nn.Module = Attention(outputs, heads, family) if heads else nn.Identity()

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        """[n, inputs, h, w] and silu of the embedding [n, embedding] -> [n, outputs, h', w']."""
        h = self.conv0(resampled(functional.silu(self.norm0(x)), self.how))
        added = self.affine(embedded)[..., None, None]
        if self.family.scale_shift:
            scale, shift = added.chunk(2, dim=1)
            h = self.norm1(h) * (1 + scale) + shift
        else:
            h = self.norm1(h + added)
        h = self.conv1(functional.silu(h))
        out: Tensor = self.attention((self.skip(resampled(x, self.how)) + h) * self.family.factor)
        return out


class Resample(nn.Module):
    """Half or double resolution by one 3 x 3 convolution, called as a block is.

    Args:
        channels: of input and output.
        how: ``down`` or ``up``.
        family: its padding.
    """

    def __init__(self, channels: int, how: Resampling, family: Family) -> None:
        super().__init__()
        self.how, self.far = how, family.resample == "between_far"
        stride, padding = (2, 0 if self.far else 1) if how == "down" else (1, 1)
        self.conv = nn.Conv2d(channels, channels, 3, stride, padding)

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        """[n, c, h, w] -> [n, c, h/2, w/2] or [n, c, 2h, 2w]."""
        if self.how == "up":
            x = resampled(x, "up")
        elif self.far:
            x = functional.pad(x, (0, 1, 0, 1))
        out: Tensor = self.conv(x)
        return out


def require_levels(shape: Sequence[int], levels: int, attention: Sequence[int]) -> None:
    """Refuse images that cannot be halved from each level of a U-Net to the next, and attention at other levels.

    Args:
        shape: (channels, height, width).
        levels: how many resolutions the network has.
        attention: the levels with self-attention, counted from 0.

    Raises:
        UserError: a side is not divisible so often, or there is no such level.
    """
    if beyond := [level for level in attention if level >= levels]:
        raise UserError(f"attention at level {beyond[0]} of {levels}", "levels count from 0, the finest")
    if any(side % 2 ** (levels - 1) for side in shape[1:]):
        raise UserError(f"images {tuple(shape)} in {levels} levels", "each level halves both sides")
