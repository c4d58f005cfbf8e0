"""What a feature network is, and where the known ones come from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from importlib import import_module
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

FROM_FILES = ("inception", "dinov2")
"""Networks whose weights are files of others, each in a module of its name; other names are our classifiers."""


class Features(nn.Module):
    """A frozen network from images to feature vectors; subclasses define ``forward``.

    Args:
        identity: everything the features depend on besides the images (JSON values): it enters a metric's protocol.
        width: length of a feature vector.
    """

    batch: ClassVar[int] = 250
    """Images per evaluation that its activations suggest."""

    slow: ClassVar[bool] = False
    """Whether features of a data set take minutes, so that they are kept in the cache folder."""

    def __init__(self, identity: dict[str, Any], width: int) -> None:
        super().__init__()
        self.identity, self.width = identity, width

    def forward(self, images: Tensor) -> Tensor:
        """Features of unsigned bytes [n, C, H, W] -> [n, width]."""
        raise NotImplementedError


@lru_cache(maxsize=4)
def features_of(name: str) -> Features:
    """The feature network called ``name``; loaded once.

    Raises:
        UserError: no such network, or its file is missing or another one.
    """
    found: Features = _module(name).load(name)
    return found.eval().requires_grad_(False)


def lacking(name: str, shape: tuple[int, ...]) -> str | None:
    """Why features ``name`` of images [C, H, W] cannot be had here, or None; loads no weights."""
    reason: str | None = _module(name).lacking(name, shape)
    return reason


def _module(name: str) -> ModuleType:
    return import_module(f"bench.features.{name if name in FROM_FILES else 'classifier'}")


def as_bytes(rows: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Images as they would be saved: [n, C * H * W] in [-1, 1], clipped and ROUNDED to eight bits -> [n, C, H, W]."""
    return ((rows.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).reshape(len(rows), *shape)


def coloured(images: Tensor) -> Tensor:
    """Grey images with their channel repeated, [n, 3, H, W]; others as they are."""
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


@torch.no_grad()
def evaluated(network: Features, batches: Iterable[Tensor], device: torch.device | str) -> Iterator[Tensor]:
    """Features of batches of unsigned bytes [n, C, H, W] -> [n, width] on ``device``.

    TF32, which a GPU may use for convolutions, would change a Frechet distance in its third digit: it is off.
    """
    network = network.to(device)
    for images in batches:
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            found = network(images.to(device))
        yield found
