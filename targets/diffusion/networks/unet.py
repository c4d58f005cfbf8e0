"""The U-Net of DDPM, from the library diffusers, on flattened images."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence

from torch import Tensor, nn

from bench.errors import UserError
from targets.diffusion.networks.blocks import require_levels


class UNet(nn.Module):
    """eps(x, t) of images: ``diffusers.UNet2DModel``.

    Args:
        shape: C, H, W.
        channels: of every resolution, the finest first.
        layers: residual blocks per resolution.
        attention: at the levels of these numbers (0: the finest).
        groups: of the group normalisations.

    Raises:
        UserError: diffusers is not installed, groups do not divide the channels, an image cannot be halved so often, or
            there is no level for the attention.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        channels: Sequence[int] = (32, 64, 64),
        layers: int = 2,
        attention: Sequence[int] = (2,),
        groups: int = 8,
    ) -> None:
        super().__init__()
        if importlib.util.find_spec("diffusers") is None:
            raise UserError("the network unet needs the package diffusers", "pip install 'sivibench[diffusion]'")
        if odd := [count for count in channels if count % groups]:
            raise UserError(f"{odd[0]} channels in {groups} groups of normalisation", "change channels or groups")
        require_levels(shape, len(channels), attention)
        self.shape = tuple(shape)
        plain = [i not in attention for i in range(len(channels))]
        self.net = importlib.import_module("diffusers").UNet2DModel(
            sample_size=self.shape[1],
            in_channels=self.shape[0],
            out_channels=self.shape[0],
            block_out_channels=tuple(channels),
            layers_per_block=layers,
            down_block_types=["DownBlock2D" if p else "AttnDownBlock2D" for p in plain],
            up_block_types=["UpBlock2D" if p else "AttnUpBlock2D" for p in reversed(plain)],
            norm_num_groups=groups,
            attention_head_dim=None,
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """x [..., d] and t [...], 0 .. T - 1 -> [..., d]."""
        images = x.reshape(-1, *self.shape)
        out: Tensor = self.net(images, t.expand(x.shape[:-1]).reshape(-1), return_dict=False)[0]
        return out.reshape(x.shape)
