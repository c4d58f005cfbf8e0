"""The two sets of images that a metric compares, as features: draws of q, and the reference."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor

from bench.features.base import Features, as_bytes, evaluated
from bench.metrics.base import Fitted
from bench.metrics.images.cache import cached
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
    def of(features: Features, batches: Iterable[Tensor], device: torch.device | str) -> Sample:
        """Of batches of unsigned bytes [n, C, H, W]; nothing but the kept vectors stays in memory."""
        kept: list[Tensor] = []

        def moments() -> Iterator[Moments]:
            left = KEPT
            for batch in evaluated(features, batches, device):
                kept.append(batch[:left])
                left -= len(kept[-1])
                yield Moments.of(batch)

        return Sample(merged(moments()), torch.cat(kept))

    def tensors(self) -> dict[str, Tensor]:
        """What the cache keeps of it."""
        m = self.moments
        return {"n": torch.tensor(m.n), "mean": m.mean, "scatter": m.scatter, "rows": self.rows}

    @staticmethod
    def of_tensors(found: dict[str, Tensor], device: torch.device | str) -> Sample:
        """The reverse of ``tensors``."""
        moments = Moments(int(found["n"]), found["mean"].to(device), found["scatter"].to(device))
        return Sample(moments, found["rows"].to(device))


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
        q.cache[key] = Sample.of(features, drawn_images(q, n).split(features.batch), q.device)
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
    images = RealImages(target, part)
    sha256 = images.sha256()

    def sample() -> Sample:
        order = torch.randperm(len(images), generator=generator("image order"))
        return Sample.of(features, map(images.take, order.split(features.batch)), device)

    if not features.slow:
        return Reference(sample(), sha256)
    key = {"features": features.identity, "images": sha256, "kept": KEPT}
    return Reference(Sample.of_tensors(cached(key, lambda: sample().tensors()), device), sha256)


class RealImages:
    """The images of one part of a target, or of both; taken piece by piece, as a data set may be a mapped file."""

    def __init__(self, target: Target, part: Part) -> None:
        self.target = cast("ImageTarget", target)
        self.parts = [self.target.pixels] if part != "test" else []
        self.parts += [self.target.test_pixels] if part != "train" else []

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def take(self, index: Tensor) -> Tensor:
        """The images of these numbers, unsigned bytes [n, C, H, W] (CPU)."""
        pixels = torch.empty(len(index), self.target.dim, dtype=torch.uint8)
        start = 0
        for part in self.parts:
            here = (index >= start) & (index < start + len(part))
            pixels[here] = part[(index[here] - start).to(part.device)].cpu()
            start += len(part)
        return as_bytes(self.target.scaled(pixels), self.target.shape)

    def sha256(self) -> str:
        """Of all bytes, in the order of the data set."""
        digest = hashlib.sha256()
        for index in torch.arange(len(self)).split(CHUNK):
            digest.update(self.take(index).numpy().tobytes())
        return digest.hexdigest()


def image_shape(target: Target) -> tuple[int, int, int]:
    """C, H, W of a target that provides "images"."""
    return cast("ImageTarget", target).shape
