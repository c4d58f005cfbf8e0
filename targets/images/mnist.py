"""MNIST at 28 x 28, or padded to 32 x 32 pixels."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from bench.registry import register
from targets.images.base import ImageTarget, Part
from targets.mnist import load_mnist

SOURCE = "LeCun et al. 1998, doi:10.1109/5.726791"


class _MNIST(ImageTarget):
    """Handwritten digits of MNIST.

    Args:
        data: ``full``: 60,000 training and 10,000 test images; ``t10k``: the test files alone, split 8000 / 2000.
        teacher: id or path of a teacher (`sivibench teacher mnist`).
    """

    padding: ClassVar[int]
    metrics = ("fd_mnist", "kd_mnist", "precision_mnist", "recall_mnist", "sliced_w2", "nfe")
    curve_metric = "fd_mnist"
    teacher_command = "sivibench teacher mnist"

    def __init__(self, *, data: Literal["full", "t10k"] = "full", teacher: str = "") -> None:
        parts, labels = [], []
        for features, classes in load_mnist(data):
            images = np.rint(features * 255).astype(np.uint8).reshape(-1, 28, 28)
            around = ((0, 0), (self.padding, self.padding), (self.padding, self.padding))
            parts.append(torch.from_numpy(np.pad(images, around).reshape(len(images), -1)))
            labels.append(torch.from_numpy(classes.astype(np.int64)))
        super().__init__(*parts, teacher=teacher)
        self._labels = dict(zip(("train", "test"), labels, strict=True))

    def labels(self, part: Part) -> Tensor:
        return self._labels[part]


@register("target", "mnist28", source=SOURCE)
class MNIST28(_MNIST):
    """MNIST, 28 x 28 pixels."""

    shape = (1, 28, 28)
    padding = 0


@register("target", "mnist32", source=SOURCE)
class MNIST32(_MNIST):
    """MNIST padded by two dark pixels on each side to 32 x 32, as diffusion networks want it."""

    shape = (1, 32, 32)
    padding = 2
