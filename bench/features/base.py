"""What a feature network is, and where the known ones come from."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

BATCH = 250
"""Images per evaluation."""

FROM_FILES = ("inception", "dinov2")
"""Networks whose weights are files of others, each in a module of its name; other names are our classifiers."""


class Features(nn.Module):
    """A frozen network from images to feature vectors; subclasses define ``forward``.

    Args:
        identity: everything the features depend on besides the images (JSON values): it enters a metric's protocol.
        width: length of a feature vector.
    """

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


@torch.no_grad()
def in_batches(network: Features, images: Tensor, device: torch.device | str, size: int = BATCH) -> Iterator[Tensor]:
    """Features of unsigned bytes [N, C, H, W], ``size`` images at a time: [n, width] on ``device``."""
    network = network.to(device)
    for batch in images.split(size):
        yield network(batch.to(device))
