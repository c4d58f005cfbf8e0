"""One U-Net for the published image diffusions: DDPM, improved DDPM, DDPM++ and ADM differ in a few switches only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.errors import UserError
from targets.diffusion.networks.blocks import Block, Family, Resample, Resampling, require_levels

FamilyName = Literal["ddpm", "improved", "song", "dhariwal"]

FAMILIES: dict[FamilyName, Family] = {
    "ddpm": Family(resample="between_far", eps=1e-6, sine_first=True, endpoint=True),
    "improved": Family(scale_shift=True),
    "song": Family(
        factor=math.sqrt(0.5), resample="inside", least_per_group=4, eps=1e-6, sine_first=True, endpoint=True,
        last_only=True, project=True,
    ),
    "dhariwal": Family(scale_shift=True, resample="inside", least_per_group=4),
}  # fmt: skip
"""``ddpm``: Ho et al. 2020 (arXiv:2006.11239) as in ddpm-torch; ``improved``: Nichol & Dhariwal 2021
(arXiv:2102.09672); ``song``: DDPM++ of Song et al. 2021 and ``dhariwal``: ADM of Dhariwal & Nichol 2021, both as EDM
rebuilt them (Karras et al. 2022, arXiv:2206.00364)."""


class ImageUNet(nn.Module):
    """eps(x, t) of flattened images, no dropout, no labels.

    Args:
        shape: C, H, W.
        family: which of the published architectures.
        width: channels of the first level; the embedding has 4 times as many.
        multipliers: channels of the levels in units of ``width``; each level halves the resolution.
        blocks: residual blocks per level (the decoder has one more).
        attention: levels with self-attention, counted from 0; between encoder and decoder there always is one.
        heads: of the attention.
        head_width: channels per head instead of a number of heads; 0 for ``heads``.
        eps: of the normalisations; 0 for the family's.

    Raises:
        UserError: an unknown family, channels that groups or heads do not divide, a side that levels do not halve, or
            attention at no level.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        family: FamilyName = "ddpm",
        width: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 2,
        attention: Sequence[int] = (1,),
        heads: int = 1,
        head_width: int = 0,
        eps: float = 0.0,
    ) -> None:
        super().__init__()
        if family not in FAMILIES:
            raise UserError(f"unknown family of U-Nets {family!r}", f"choose from: {', '.join(get_args(FamilyName))}")
        known = FAMILIES[family]
        self.family = Family(**{**vars(known), "eps": eps or known.eps})
        self.shape, self.width, self._heads, self._head_width = tuple(shape), width, heads, head_width
        wide = 4 * width
        require_levels(shape, len(multipliers), attention)
        _divisible(self.family, [width * m for m in multipliers], heads, head_width)
        self.embed = nn.Sequential(nn.Linear(width, wide), nn.SiLU(), nn.Linear(wide, wide))
        self.first = nn.Conv2d(shape[0], width, 3, padding=1)
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        kept, now = [width], width
        for level, multiplier in enumerate(multipliers):
            if level:
                self.encoder.append(self._between(now, "down"))
                kept.append(now)
            for _ in range(blocks):
                self.encoder.append(self._block(now, width * multiplier, level in attention))
                now = width * multiplier
                kept.append(now)
        self.middle = nn.ModuleList([self._block(now, now, True), self._block(now, now, False)])
        for level in reversed(range(len(multipliers))):
            if level < len(multipliers) - 1:
                self.decoder.append(self._between(now, "up"))
            for i in range(blocks + 1):
                attends = level in attention and (i == blocks or not self.family.last_only)
                self.decoder.append(self._block(now + kept.pop(), width * multipliers[level], attends))
                now = width * multipliers[level]
        self.norm = self.family.norm(now)
        self.last = nn.Conv2d(now, shape[0], 3, padding=1)

    def _block(self, inputs: int, outputs: int, attends: bool, how: Resampling = "same") -> Block:
        heads = (outputs // self._head_width if self._head_width else self._heads) if attends else 0
        return Block(inputs, outputs, 4 * self.width, self.family, heads, how)

    def _between(self, channels: int, how: Resampling) -> nn.Module:
        if self.family.resample == "inside":
            return self._block(channels, channels, False, how)
        return Resample(channels, how, self.family)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """x [..., d] and t [...], 0 .. T - 1 -> [..., d]."""
        images = x.reshape(-1, *self.shape)
        return self.on_images(images, t.expand(x.shape[:-1]).reshape(-1)).reshape(x.shape)

    def on_images(self, x: Tensor, t: Tensor) -> Tensor:
        """[n, C, H, W] and [n] -> [n, C, H, W]."""
        embedded = functional.silu(self.embed(self.family.embedding(t, self.width).to(x.dtype)))
        h = self.first(x)
        kept = [h]
        for block in self.encoder:
            h = block(h, embedded)
            kept.append(h)
        for block in self.middle:
            h = block(h, embedded)
        for block in self.decoder:
            if not _resamples(block):
                h = torch.cat([h, kept.pop()], dim=1)
            h = block(h, embedded)
        out: Tensor = self.last(functional.silu(self.norm(h)))
        return out


def _resamples(block: nn.Module) -> bool:
    return isinstance(block, Resample) or (isinstance(block, Block) and block.how != "same")


def _divisible(family: Family, widths: list[int], heads: int, head_width: int) -> None:
    for channels in widths:
        groups = min(32, channels // family.least_per_group)
        if groups == 0 or channels % groups:
            raise UserError(f"{channels} channels in {groups} groups of normalisation", "change width or multipliers")
        if channels % (head_width or heads):
            raise UserError(
                f"{channels} channels for attention heads", "change heads, head_width, width or multipliers"
            )
