"""What an image target is: a finite set of images, a held-out part, and the diffusion teacher trained on it."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor

from targets.base import Target, Unsupported
from targets.diffusion.eps import EpsTeacher
from targets.diffusion.files import open_teacher
from targets.diffusion.schedule import Schedule

Part = Literal["train", "test"]


class ImageTarget(Target):
    """The uniform law on the training images of a data set; a row is a flattened image [C * H * W] in [-1, 1].

    It has neither density nor score.  Distillation methods and solvers ask for ``teacher``, methods that train one for
    ``train_images``; metrics compare draws with either part.

    Args:
        train: unsigned bytes [N, C * H * W], 0 .. levels - 1, channels first.
        test: the held-out part, likewise [M, C * H * W].
        teacher: a published teacher's id (``sivibench teacher``) or path; "" for ``default_teacher``.
    """

    shape: ClassVar[tuple[int, int, int]]
    """C, H, W."""

    levels: ClassVar[int] = 256
    """Different values of a pixel."""

    teacher_command: ClassVar[str] = "sivibench teacher"
    """What makes the default teacher."""

    pixels: Tensor
    test_pixels: Tensor

    def __init__(self, train: Tensor, test: Tensor, *, teacher: str = "") -> None:
        super().__init__()
        channels, height, width = self.shape
        self.dim = channels * height * width
        for part in (train, test):
            if part.dtype != torch.uint8 or part.dim() != 2 or part.shape[1] != self.dim:
                raise ValueError(f"images of {part.dtype} {tuple(part.shape)} instead of bytes [N, {self.dim}]")
        self.register_buffer("pixels", train)
        self.register_buffer("test_pixels", test)
        self.teacher_id = teacher or self.default_teacher

    @property
    def provides(self) -> frozenset[str]:
        return super().provides | {"images"}

    def scaled(self, pixels: Tensor) -> Tensor:
        """Bytes 0 .. levels - 1 as values in [-1, 1]; any shape."""
        return pixels.to(torch.get_default_dtype()) * (2 / (self.levels - 1)) - 1

    def images(self, index: Tensor) -> Tensor:
        """The training images of these numbers, on the device of ``index``; [n] -> [n, d]."""
        # large sets are mapped files, which stay on the CPU
        return self.scaled(self.pixels[index.to(self.pixels.device)].to(index.device))

    def train_images(self) -> Tensor:
        """All training images, [N, d]."""
        return self.scaled(self.pixels)

    def test_images(self) -> Tensor:
        """All held-out images, [M, d]."""
        return self.scaled(self.test_pixels)

    def labels(self, part: Part) -> Tensor:
        """Class of every image of a part, [N]; what the feature network of the image metrics is trained on.

        Raises:
            Unsupported: the set has no labels.
        """
        raise Unsupported(f"{type(self).__name__} has no labels")

    def sample(self, n: int, generator: Generator) -> Tensor:
        """n training images drawn with replacement, [n, d] (CPU, float32)."""
        index = torch.randint(len(self.pixels), (n,), generator=generator)
        return self.scaled(self.pixels.cpu()[index]).float()

    def teacher(self, schedule: Schedule | None = None) -> EpsTeacher:
        """The trained noise predictor of this data set.

        Args:
            schedule: it must have been trained with; None: whichever it was trained with.

        Raises:
            UserError: no such teacher here, or one of other images or of another schedule.
        """
        return open_teacher(
            self.teacher_id, shape=self.shape, data=self.registered_name, schedule=schedule, make=self.teacher_command
        )
