"""What the image metrics share: which features, how many draws, which reference, what goes into the protocol."""

from __future__ import annotations

import math
from statistics import fmean
from typing import ClassVar, Literal

import torch
from torch import Tensor

from bench.features.base import Features, features_of, lacking
from bench.metrics.base import Fitted, Metric, Value
from bench.metrics.images.kernel import kernel_distance, subset_distances
from bench.metrics.images.manifold import covered
from bench.metrics.images.moments import Moments, frechet
from bench.metrics.images.sets import Part, Reference, Sample, drawn, image_shape, reference
from bench.noise import generator
from methods.base import Method
from targets.base import Target

USED = 10_000
"""Most feature vectors per side of metrics that compare all pairs."""
SPLITS = 10
"""Ways of halving the real images that a floor is averaged over."""


class ImageMetric(Metric):
    """Base: n draws of q, clipped to [-1, 1] and rounded to eight bits, against the images of the target.

    ``features`` names the feature network, set by the subclasses.

    Args:
        n: draws of q.
        reference: images of the target compared with: "train", "test" or "all".
    """

    features: ClassVar[str]
    floor_is_noise: ClassVar[bool] = False

    def __init__(self, *, n: int = 5000, reference: Part = "all") -> None:
        self.n, self.reference = n, reference

    def applies(self, method: Method, target: Target) -> str | None:
        if "images" not in target.provides:
            return "the target is no set of images"
        return lacking(self.features, image_shape(target))

    @torch.no_grad()
    def __call__(self, q: Fitted) -> Value:
        network = features_of(self.features)
        real = self.real(q, network)
        try:
            value, error = self.compare(drawn(q, network, self.n), real)
        except FloatingPointError:
            value, error = math.nan, None
        against = {"features": network.identity, "images": real.sha256, "n_images": real.n}
        return Value(value, real.floor(self.protocol_id(), lambda: self.floor(real)), error, against)

    def real(self, q: Fitted, network: Features) -> Reference:
        """What the draws are compared with."""
        return reference(q.target, self.reference, network, q.device)

    def compare(self, fake: Sample, real: Reference) -> tuple[float, float | None]:
        """The value for these features, and its error where there is one."""
        raise NotImplementedError

    def floor(self, real: Reference) -> float:
        """The value for real images in place of draws."""
        raise NotImplementedError


class FrechetDistance(ImageMetric):
    """Frechet distance of features: squared W2 of Gaussians with the mean and covariance of either set.

    Identical laws give about c (1/n + 1/N) for N real images, not 0 (Chong & Forsyth 2020, arXiv:1911.07023): the
    floor, what a perfect sampler would get, with c from the distance between random halves of the real images.

    Args:
        n: draws of q.
        reference: images of the target compared with.
        splits: ways of halving that the floor is averaged over.
    """

    def __init__(self, *, n: int = 5000, reference: Part = "all", splits: int = SPLITS) -> None:
        super().__init__(n=n, reference=reference)
        self.splits = splits

    def compare(self, fake: Sample, real: Reference) -> tuple[float, None]:
        return frechet(fake.moments, real.moments), None

    def floor(self, real: Reference) -> float:
        halves = [[Moments.of(half) for half in real.halves(split)] for split in range(self.splits)]
        constant = fmean(frechet(a, b) * a.n / 2 for a, b in halves)
        return constant * (1 / self.n + 1 / real.n)


class KernelDistance(ImageMetric):
    """Kernel distance of features: unbiased MMD^2 with the kernel (x . y / d + 1)^3, mean over random subsets.

    ``error`` is the standard deviation over the subsets, as KID is usually printed; the subsets overlap.  Unbiased, so
    identical laws give 0 but for noise: the floor, from the root mean square of the distances between random halves of
    the real images, whose size falls as 1/n + 1/N.

    Args:
        n: draws of q, of which the first 10,000 are used.
        reference: images of the target compared with.
        subsets: comparisons averaged.
        size: images per side and comparison.
    """

    floor_is_noise: ClassVar[bool] = True

    def __init__(self, *, n: int = 5000, reference: Part = "all", subsets: int = 100, size: int = 1000) -> None:
        super().__init__(n=n, reference=reference)
        self.subsets, self.size = subsets, size

    def compare(self, fake: Sample, real: Reference) -> tuple[float, float]:
        found = self.distances(fake.rows, real.rows)
        return float(found.mean()), float(found.std())

    def floor(self, real: Reference) -> float:
        halves = [[half[:USED] for half in real.halves(split)] for split in range(SPLITS)]
        size = len(halves[0][0])
        noise = math.sqrt(fmean(kernel_distance(a, b) ** 2 for a, b in halves))
        return noise * size / 2 * (1 / min(self.n, USED) + 1 / min(real.n, USED))

    def distances(self, x: Tensor, y: Tensor) -> Tensor:
        """One per subset; of the first ``USED`` rows."""
        x, y = x[:USED], y[:USED]
        return subset_distances(x, y, self.subsets, self.size, generator("kernel distance subsets"))


class Precision(ImageMetric):
    """Share of generated images within the k-nearest-neighbour balls of real ones, equally many of both.

    The floor, here a ceiling, compares random halves of the real images, the mean over ways of halving: of half as many
    as the value or fewer, on which the share depends a little.

    Args:
        n: draws of q, of which at most 10,000 are used.
        reference: images of the target compared with.
        k: neighbours a ball reaches to.
    """

    direction: ClassVar[Literal["lower", "higher"]] = "higher"

    def __init__(self, *, n: int = 5000, reference: Part = "all", k: int = 3) -> None:
        super().__init__(n=n, reference=reference)
        self.k = k

    def compare(self, fake: Sample, real: Reference) -> tuple[float, None]:
        return self.share(fake.rows, real.rows), None

    def floor(self, real: Reference) -> float:
        return fmean(self.share(*real.halves(split)) for split in range(SPLITS))

    def share(self, fake: Tensor, real: Tensor) -> float:
        """Of features [n, d] and [m, d], as many of both as there are (the reference is shuffled)."""
        size = min(len(fake), len(real), USED)
        return self.covered(fake[:size], real[:size])

    def covered(self, fake: Tensor, real: Tensor) -> float:
        """Of equally many."""
        return covered(fake, real, self.k)


class Recall(Precision):
    """Share of real images within the k-nearest-neighbour balls of generated ones, equally many of both.

    The floor, here a ceiling, is that of ``Precision``.
    """

    def covered(self, fake: Tensor, real: Tensor) -> float:
        return covered(real, fake, self.k)
