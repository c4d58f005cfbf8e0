"""The image metrics in the features of the bundled classifier of 8 x 8 digits."""

from __future__ import annotations

from bench.metrics.images.base import FrechetDistance, KernelDistance, Precision, Recall
from bench.registry import register

WHERE = "features of this suite's classifier of 8 x 8 digits"


@register("metric", "fd_digits", source=f"Heusel et al. 2017, arXiv:1706.08500, in the {WHERE}")
class FDDigits(FrechetDistance):
    """FD-digits: Frechet distance in 64 features of a digit classifier; comparable with no FID.

    5000 draws against all 1797 digits.
    """

    features = "digits"
    curve = {"n": 1000}


@register("metric", "kd_digits", source=f"Binkowski et al. 2018, arXiv:1801.01401, in the {WHERE}")
class KDDigits(KernelDistance):
    """KD-digits: kernel distance (cubic kernel, 100 subsets of 1000) in 64 features of a digit classifier."""

    features = "digits"


@register("metric", "precision_digits", source=f"Kynkaanniemi et al. 2019, arXiv:1904.06991, in the {WHERE}")
class PrecisionDigits(Precision):
    """Precision (3 nearest neighbours) in 64 features of a digit classifier: share of draws that look real."""

    features = "digits"


@register("metric", "recall_digits", source=f"Kynkaanniemi et al. 2019, arXiv:1904.06991, in the {WHERE}")
class RecallDigits(Recall):
    """Recall (3 nearest neighbours) in 64 features of a digit classifier: share of real digits that q covers."""

    features = "digits"
