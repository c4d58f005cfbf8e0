"""CIFAR-10 from its binary archive, which is read without being extracted."""

from __future__ import annotations

import tarfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.errors import UserError
from bench.registry import register
from targets.fetch import fetch
from targets.images.base import ImageTarget

DIM = 3 * 32 * 32
TRAIN = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
TEST = ("test_batch.bin",)


def read_cifar10(archive: Path) -> tuple[Tensor, Tensor]:
    """Training and test images of ``cifar-10-binary.tar.gz`` as bytes, channels first; [N, 3072] and [M, 3072].

    A record is one byte of label and 3072 of pixels.

    Raises:
        UserError: it is no such archive, or a part is missing or of an impossible length.
    """
    found: dict[str, np.ndarray] = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                name = Path(member.name).name
                if name in (*TRAIN, *TEST) and (file := tar.extractfile(member)) is not None:
                    found[name] = _records(np.frombuffer(file.read(), np.uint8), f"{archive}:{member.name}")
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise UserError(f"{archive} is no gzipped tar archive ({error})", "replace it") from error
    if missing := [name for name in (*TRAIN, *TEST) if name not in found]:
        raise UserError(f"{archive} lacks {', '.join(missing)}", "expected CIFAR-10's binary version")
    parts = (np.concatenate([found[name] for name in names]) for names in (TRAIN, TEST))
    train, test = (torch.from_numpy(part) for part in parts)
    return train, test


def _records(content: np.ndarray, name: str) -> np.ndarray:
    if len(content) == 0 or len(content) % (1 + DIM):
        raise UserError(f"{name} has {len(content)} bytes, no multiple of {1 + DIM}", "replace the archive")
    return content.reshape(-1, 1 + DIM)[:, 1:]


@register("target", "cifar10", source="Krizhevsky 2009, Learning multiple layers of features from tiny images")
class CIFAR10(ImageTarget):
    """CIFAR-10, 32 x 32 colour images: 50,000 for training, 10,000 held out.

    Args:
        teacher: id or path of a teacher (`sivibench teacher convert`).
    """

    shape = (3, 32, 32)
    metrics = ("fid", "kid", "nfe")
    curve_metric = "fid"
    teacher_command = "sivibench teacher convert cifar10_2040.pt --format ddpm-torch --size 32 --set eps=1e-5"

    def __init__(self, *, teacher: str = "") -> None:
        super().__init__(*read_cifar10(fetch("cifar10/cifar-10-binary.tar.gz")), teacher=teacher)
