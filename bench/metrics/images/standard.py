"""The image metrics as papers print them: 50,000 draws against the training images, Inception or DINOv2 features.

Their networks are files of others that this suite neither bundles nor downloads (``bench.features``).
"""

from __future__ import annotations

from bench.metrics.images.base import FrechetDistance, KernelDistance, Precision, Recall
from bench.metrics.images.sets import Part
from bench.registry import register

N = 50_000


class StandardFrechet(FrechetDistance):
    """Frechet distance, 50,000 draws."""

    def __init__(self, *, n: int = N, reference: Part = "train", splits: int = 2) -> None:
        super().__init__(n=n, reference=reference, splits=splits)


class StandardKernel(KernelDistance):
    """Kernel distance, the first 10,000 of 50,000 draws."""

    def __init__(self, *, n: int = N, reference: Part = "train", subsets: int = 100, size: int = 1000) -> None:
        super().__init__(n=n, reference=reference, subsets=subsets, size=size)


class StandardPrecision(Precision):
    """Precision, the first 10,000 of 50,000 draws."""

    def __init__(self, *, n: int = N, reference: Part = "train", k: int = 3) -> None:
        super().__init__(n=n, reference=reference, k=k)


class StandardRecall(Recall):
    """Recall, the first 10,000 of 50,000 draws."""

    def __init__(self, *, n: int = N, reference: Part = "train", k: int = 3) -> None:
        super().__init__(n=n, reference=reference, k=k)


@register(
    "metric", "fid", source="Heusel et al. 2017, arXiv:1706.08500; Inception of 2015-12-05, torch-fidelity's port"
)
class FID(StandardFrechet):
    """Frechet Inception distance: 50,000 draws against the training images; needs a local weight file."""

    features = "inception"


@register("metric", "kid", source="Binkowski et al. 2018, arXiv:1801.01401; Inception as for fid")
class KID(StandardKernel):
    """Kernel Inception distance: cubic kernel, 100 subsets of 1000; needs a local weight file."""

    features = "inception"


@register("metric", "precision_inception", source="Kynkaanniemi et al. 2019, arXiv:1904.06991, in Inception features")
class PrecisionInception(StandardPrecision):
    """Precision (3 nearest neighbours) in Inception features (the paper: VGG-16); needs a local weight file."""

    features = "inception"


@register("metric", "recall_inception", source="Kynkaanniemi et al. 2019, arXiv:1904.06991, in Inception features")
class RecallInception(StandardRecall):
    """Recall (3 nearest neighbours) in Inception features (the paper: VGG-16); needs a local weight file."""

    features = "inception"


@register("metric", "fd_dinov2", source="Stein et al. 2023, arXiv:2306.04675; DINOv2 ViT-L/14, arXiv:2304.07193")
class FDDINOv2(StandardFrechet):
    """FD-DINOv2: Frechet distance in DINOv2 features, 50,000 draws; needs a local weight file."""

    features = "dinov2"


@register("metric", "kd_dinov2", source="Stein et al. 2023, arXiv:2306.04675; DINOv2 ViT-L/14, arXiv:2304.07193")
class KDDINOv2(StandardKernel):
    """Kernel distance in DINOv2 features: cubic kernel, 100 subsets of 1000; needs a local weight file."""

    features = "dinov2"


@register("metric", "precision_dinov2", source="Kynkaanniemi et al. 2019, arXiv:1904.06991, in DINOv2 features")
class PrecisionDINOv2(StandardPrecision):
    """Precision (3 nearest neighbours) in DINOv2 features; needs a local weight file."""

    features = "dinov2"


@register("metric", "recall_dinov2", source="Kynkaanniemi et al. 2019, arXiv:1904.06991, in DINOv2 features")
class RecallDINOv2(StandardRecall):
    """Recall (3 nearest neighbours) in DINOv2 features; needs a local weight file."""

    features = "dinov2"
