"""Noise predictors by name; a network maps rows x [..., d] and times t to eps [..., d]."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from bench.errors import UserError
from targets.diffusion.networks.diffusers_unet import DiffusersUNet
from targets.diffusion.networks.film_mlp import FiLMMLP
from targets.diffusion.networks.image_unet import ImageUNet
from targets.diffusion.networks.preconditioned import Preconditioned
from targets.diffusion.networks.unet import UNet

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "film_mlp": FiLMMLP,
    "unet": UNet,
    "image_unet": ImageUNet,
    "preconditioned": Preconditioned,
    "diffusers_unet": DiffusersUNet,
}
"""Called as ``NETWORKS[name](shape, **arguments)``; arguments are numbers, strings and lists: they are kept as JSON."""


def make_network(name: str, shape: tuple[int, ...], arguments: Mapping[str, Any]) -> nn.Module:
    """An untrained network for rows that are flattened arrays of ``shape``.

    Raises:
        UserError: no network of this name, or arguments that are not its.
    """
    if name not in NETWORKS:
        raise UserError(f"unknown network {name!r}", f"choose from: {', '.join(NETWORKS)}")
    try:
        return NETWORKS[name](shape, **arguments)
    except TypeError as error:
        raise UserError(f"network {name!r} with {dict(arguments)}: {error}", "correct its arguments") from error
