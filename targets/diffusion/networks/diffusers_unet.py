"""A U-Net of the library diffusers with all its options, on flattened images: networks in diffusers' folder format."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from torch import Tensor, nn

from bench.errors import UserError


class DiffusersUNet(nn.Module):
    """eps(x, t) of images: ``diffusers.UNet2DModel(**arguments)``.

    Args:
        shape: C, H, W.
        arguments: of UNet2DModel, as its config.json states them.

    Raises:
        UserError: diffusers is not installed, or the arguments are for other images or for images with labels.
    """

    def __init__(self, shape: tuple[int, ...], **arguments: Any) -> None:
        super().__init__()
        self.shape = tuple(shape)
        if arguments.get("num_class_embeds") or arguments.get("class_embed_type"):
            raise UserError("the network takes class labels", "only unconditional ones can be teachers here")
        self.net = unet2d().from_config(arguments)
        channels = (self.net.config.in_channels, self.net.config.out_channels)
        if channels != (shape[0], shape[0]):
            raise UserError(
                f"a network from {channels[0]} to {channels[1]} channels for images {list(shape)}",
                "only networks that predict the noise of their input can be teachers",
            )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """x [..., d] and t [...], 0 .. T - 1 -> [..., d]."""
        images = x.reshape(-1, *self.shape)
        out: Tensor = self.net(images, t.expand(x.shape[:-1]).reshape(-1), return_dict=False)[0]
        return out.reshape(x.shape)


def unet2d() -> Any:
    """The class ``UNet2DModel``.

    Raises:
        UserError: diffusers is not installed.
    """
    if importlib.util.find_spec("diffusers") is None:
        raise UserError("networks of diffusers need that package", "pip install 'sivibench[diffusion]'")
    return importlib.import_module("diffusers").UNet2DModel
