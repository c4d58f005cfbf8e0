"""The image metrics in the features of the bundled MNIST classifier: 10,000 draws against the training images."""

from __future__ import annotations

from bench.metrics.images.base import FrechetDistance, KernelDistance, Precision, Recall
from bench.metrics.images.sets import Part
from bench.registry import register

WHERE = "features of this suite's MNIST classifier"


@register("metric", "fd_mnist", source=f"Heusel et al. 2017, arXiv:1706.08500, in the {WHERE}")
class FDMNIST(FrechetDistance):
    """FD-MNIST: Frechet distance in 64 features of an MNIST classifier (28 x 28); comparable with no FID."""

    features = "mnist"
    curve = {"n": 1000}

    def __init__(self, *, n: int = 10_000, reference: Part = "train", splits: int = 10) -> None:
        super().__init__(n=n, reference=reference, splits=splits)


@register("metric", "kd_mnist", source=f"Binkowski et al. 2018, arXiv:1801.01401, in the {WHERE}")
class KDMNIST(KernelDistance):
    """KD-MNIST: kernel distance (cubic kernel, 100 subsets of 1000) in 64 features of an MNIST classifier."""

    features = "mnist"

    def __init__(self, *, n: int = 10_000, reference: Part = "train", subsets: int = 100, size: int = 1000) -> None:
        super().__init__(n=n, reference=reference, subsets=subsets, size=size)


@register("metric", "precision_mnist", source=f"Kynkaanniemi et al. 2019, arXiv:1904.06991, in the {WHERE}")
class PrecisionMNIST(Precision):
    """Precision (3 nearest neighbours) in 64 features of an MNIST classifier: share of draws that look real."""

    features = "mnist"

    def __init__(self, *, n: int = 10_000, reference: Part = "train", k: int = 3) -> None:
        super().__init__(n=n, reference=reference, k=k)


@register("metric", "recall_mnist", source=f"Kynkaanniemi et al. 2019, arXiv:1904.06991, in the {WHERE}")
class RecallMNIST(Recall):
    """Recall (3 nearest neighbours) in 64 features of an MNIST classifier: share of real images that q covers."""

    features = "mnist"

    def __init__(self, *, n: int = 10_000, reference: Part = "train", k: int = 3) -> None:
        super().__init__(n=n, reference=reference, k=k)
