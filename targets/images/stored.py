"""Image sets too large to decode at every start: their pixels in one file of the cache, mapped into memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import torch
from torch import Tensor

from bench.errors import UserError
from bench.files import explain_os_error
from bench.places import cache_folder
from targets.images.base import ImageTarget

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Source:
    """Images that can be decoded one after the other.

    Attributes:
        listing: (name, size or checksum) of every image, in order: what makes two sources the same.
        images: decodes them all; each is bytes [C, H, W].
    """

    listing: Sequence[tuple[str, int]]
    images: Callable[[], Iterator[np.ndarray]]

    @property
    def key(self) -> str:
        """First hex digits of the sha256 of the listing."""
        return hashlib.sha256(json.dumps(list(self.listing)).encode()).hexdigest()[:12]


def pixels(name: str, source: Source, shape: tuple[int, int, int]) -> Tensor:
    """All images as bytes [N, C * H * W], mapped from ``<cache>/images``; decoded the first time.

    Raises:
        UserError: an image of another shape, a full disk.
    """
    path = cache_folder() / "images" / f"{name}-{source.key}.u8"
    count, dim = len(source.listing), prod(shape)
    if count == 0:
        return torch.empty(0, dim, dtype=torch.uint8)
    if not path.is_file() or path.stat().st_size != count * dim:
        _decode(path, source, shape)
    return torch.from_file(str(path), shared=False, size=count * dim, dtype=torch.uint8).view(count, dim)


def _decode(path: Path, source: Source, shape: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{uuid4().hex}.part")  # other processes may decode the same
    try:
        with unfinished.open("wb") as file:
            for (name, _), image in zip(source.listing, source.images(), strict=True):
                if image.shape != shape or image.dtype != np.uint8:
                    raise UserError(
                        f"image {name} is {image.dtype} {image.shape}, expected bytes {shape}", "remove or replace it"
                    )
                file.write(np.ascontiguousarray(image).tobytes())
        unfinished.replace(path)
    except OSError as error:
        if (problem := explain_os_error(path, error)) is None:
            raise
        raise problem from error
    finally:
        unfinished.unlink(missing_ok=True)


def open_image(file: Any) -> Image:
    """A picture in colours.

    Raises:
        UserError: it cannot be decoded.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        name = file if isinstance(file, Path) else getattr(file, "name", file)
        raise UserError(f"{name} is no picture: {error}", "replace it") from error


def read_image(file: Any) -> np.ndarray:
    """A picture as bytes [3, H, W] (grey ones thrice).

    Raises:
        UserError: it cannot be decoded.
    """
    return np.asarray(open_image(file)).transpose(2, 0, 1)


class StoredImages(ImageTarget):
    """An image target whose pixels are looked for when they are first asked for: distilling a teacher needs none.

    Args:
        teacher: id or path of a teacher.
    """

    def __init__(self, *, teacher: str = "") -> None:
        torch.nn.Module.__init__(self)
        self.dim, self.teacher_id = prod(self.shape), teacher or self.default_teacher
        self._parts: dict[str, Tensor] = {}

    def source(self, part: str) -> Source:
        """The images of ``train`` or ``test``.

        Raises:
            UserError: they are not here.
        """
        raise NotImplementedError

    def _part(self, part: str) -> Tensor:
        if part not in self._parts:
            self._parts[part] = pixels(f"{self.registered_name}-{part}", self.source(part), self.shape)
        return self._parts[part]

    @property
    def pixels(self) -> Tensor:  # type: ignore[override]
        """Bytes [N, d] of the training images, on the CPU."""
        return self._part("train")

    @property
    def test_pixels(self) -> Tensor:  # type: ignore[override]
        """Bytes [M, d] of the held-out images, on the CPU."""
        return self._part("test")


def expect_count(found: Iterable[object], expected: int, where: str) -> None:
    """Whether a set is complete.

    Raises:
        UserError: it has another number of images.
    """
    count = sum(1 for _ in found)
    if count != expected:
        raise UserError(f"{where} holds {count} images, expected {expected}", "get the whole set")
