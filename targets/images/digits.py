"""The 8 x 8 digits bundled with scikit-learn: the image set that needs no download."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from bench.registry import register
from targets.images.base import ImageTarget, Part

SPLIT_SEED = 0
TEST = 500


@lru_cache(maxsize=1)
def digits_split() -> dict[str, tuple[Tensor, Tensor]]:
    """``train`` and ``test``: images as bytes 0..16, [N, 64], and labels, [N].

    500 of the 1797 images are held out, from every class its share (largest remainders first), chosen by numpy's
    legacy generator with seed 0, class after class.
    """
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    random = np.random.RandomState(SPLIT_SEED)
    shares = np.bincount(labels) * TEST / len(labels)
    counts = np.floor(shares).astype(int)
    counts[np.argsort(counts - shares, kind="stable")[: TEST - counts.sum()]] += 1
    held = np.zeros(len(labels), dtype=bool)
    for label, count in enumerate(counts):
        held[random.permutation(np.flatnonzero(labels == label))[:count]] = True
    return {
        name: (torch.from_numpy(images[rows].astype(np.uint8)), torch.from_numpy(labels[rows]))
        for name, rows in (("train", ~held), ("test", held))
    }


@register("target", "digits", source="scikit-learn's load_digits (optical recognition of handwritten digits, UCI)")
class Digits(ImageTarget):
    """Handwritten digits of 8 x 8 pixels and 17 grey levels: 1297 training images, 500 held out.

    Args:
        teacher: id or path of a teacher; "" for the recorded one (`sivibench teacher digits`).
    """

    shape = (1, 8, 8)
    levels = 17
    metrics = ("fd_digits", "kd_digits", "precision_digits", "recall_digits", "sliced_w2", "bits_per_dim", "nfe")
    curve_metric = "fd_digits"
    default_teacher = "6991806068-s0"
    teacher_command = "sivibench teacher digits"

    def __init__(self, *, teacher: str = "") -> None:
        split = digits_split()
        super().__init__(split["train"][0], split["test"][0], teacher=teacher)

    def labels(self, part: Part) -> Tensor:
        return digits_split()[part][1]
