"""The two sets of images that a metric compares, as features: draws of q, and the reference."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor

from bench.features.base import Features, as_bytes, in_batches
from bench.metrics.base import Fitted
from bench.metrics.images.moments import Moments, merged
from bench.noise import generator
from targets.base import Target

if TYPE_CHECKING:
    from targets.images.base import ImageTarget

Part = Literal["train", "test", "all"]

KEPT = 50_000
"""Feature vectors kept, for metrics that need more than moments."""

CHUNK = 1000
"""Images drawn at a time.  Every chunk has its own random stream, so this number is part of the draws."""


@dataclass(frozen=True)
class Sample:
    """Features of a set of images: moments of all, the vectors of the first ``KEPT``."""

    moments: Moments
    rows: Tensor

    @staticmethod
    def of(features: Features, images: Tensor, device: torch.device | str) -> Sample:
        """Of unsigned bytes [n, C, H, W], one batch at a time."""
        kept: list[Tensor] = []

        def moments() -> Iterator[Moments]:
            for batch in in_batches(features, images, device):
                kept.append(batch[: KEPT - sum(map(len, kept))])
                yield Moments.of(batch)

        return Sample(merged(moments()), torch.cat(kept))


def drawn_images(q: Fitted, n: int) -> Tensor:
    """n draws of q as they would be saved, unsigned bytes [n, C, H, W] (CPU); shared by all metrics of one n.

    Raises:
        FloatingPointError: a draw is NaN.
    """
    if (key := ("images", n)) not in q.cache:
        shape = image_shape(q.target)
        chunks = []
        for i, start in enumerate(range(0, n, CHUNK)):
            rows = q.draws(min(CHUNK, n - start), f"images {i}")
            if rows.isnan().any():
                raise FloatingPointError("a generated image has pixels that are no numbers")
            chunks.append(as_bytes(rows, shape).cpu())
        q.cache[key] = torch.cat(chunks)
    images: Tensor = q.cache[key]
    return images


def drawn(q: Fitted, features: Features, n: int) -> Sample:
    """Features of ``drawn_images``; shared by all metrics of the same features and n."""
    if (key := ("features", features.identity["network"], n)) not in q.cache:
        q.cache[key] = Sample.of(features, drawn_images(q, n), q.device)
    sample: Sample = q.cache[key]
    return sample


class Reference:
    """Features of the real images.

    Args:
        sample: features of the images, in an order that a seed shuffled.
        sha256: of the images as unsigned bytes, in the order of the data set.
    """

    def __init__(self, sample: Sample, sha256: str) -> None:
        self.moments, self.rows, self.sha256 = sample.moments, sample.rows, sha256
        self.floors: dict[str, float] = {}

    @property
    def n(self) -> int:
        """Number of images."""
        return self.moments.n

    def halves(self, split: int) -> tuple[Tensor, Tensor]:
        """The kept feature vectors split at random into halves of [n // 2, d]; a way of splitting per number."""
        order = torch.randperm(len(self.rows), generator=generator("image halves", split)).to(self.rows.device)
        half = len(order) // 2
        return self.rows[order[:half]], self.rows[order[half : 2 * half]]

    def floor(self, name: str, measure: Callable[[], float]) -> float:
        """What ``measure`` returned when it was first asked for this reference; the same for all seeds of a run."""
        if name not in self.floors:
            self.floors[name] = measure()
        return self.floors[name]


@lru_cache(maxsize=8)
def reference(target: Target, part: Part, features: Features, device: torch.device | str) -> Reference:
    """Features of the images of a target; the same for all seeds of a run."""
    images = real_images(target, part)
    order = torch.randperm(len(images), generator=generator("image order"))
    sample = Sample.of(features, images[order], device)
    return Reference(sample, hashlib.sha256(images.numpy().tobytes()).hexdigest())


def real_images(target: Target, part: Part) -> Tensor:
    """The images of one part of a target, or of both, unsigned bytes [N, C, H, W] (CPU)."""
    data = cast("ImageTarget", target)
    parts = {"train": data.train_images, "test": data.test_images}
    chosen = parts.values() if part == "all" else [parts[part]]
    return torch.cat([as_bytes(images().cpu(), data.shape) for images in chosen])


def image_shape(target: Target) -> tuple[int, int, int]:
    """C, H, W of a target that provides "images"."""
    return cast("ImageTarget", target).shape
