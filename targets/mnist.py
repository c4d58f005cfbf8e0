"""MNIST from its idx files, as features in [0, 1] and labels."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Literal

import numpy as np

from bench.checks import require_choice
from bench.errors import UserError
from targets.fetch import fetch

Files = Literal["t10k", "full"]
Part = tuple[np.ndarray, np.ndarray]

SPLIT_SEED = 0
T10K_TRAIN = 8000


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """The unsigned bytes of a gzipped idx file with that many dimensions.

    Raises:
        UserError: the file is no such file.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as error:
        raise UserError(f"{path} is not a gzip file ({error})", "replace it") from error
    header = 4 + 4 * dimensions
    shape = tuple(int(size) for size in np.frombuffer(content[4:header], ">u4"))
    if content[:4] != bytes((0, 0, 8, dimensions)) or len(content) != header + int(np.prod(shape)):
        raise UserError(f"{path} is not an idx file of unsigned bytes in {dimensions} dimensions", "replace it")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _part(name: str) -> Part:
    images = read_idx(fetch(f"mnist/{name}-images-idx3-ubyte.gz"), 3)
    labels = read_idx(fetch(f"mnist/{name}-labels-idx1-ubyte.gz"), 1)
    return images.reshape(len(images), -1) / 255.0, labels


def load_mnist(data: Files) -> tuple[Part, Part]:
    """Training and test part; features [N, 784] in [0, 1], labels [N].

    Args:
        data: ``t10k``: MNIST's test files split 8000 / 2000 by numpy's legacy generator with seed 0; ``full``: the
            standard parts.

    Raises:
        UserError: another choice, or a file cannot be had.
    """
    require_choice(Files, "target", data=data)
    features, labels = _part("t10k")
    if data == "full":
        return _part("train"), (features, labels)
    order = np.random.RandomState(SPLIT_SEED).permutation(len(labels))
    train, test = order[:T10K_TRAIN], order[T10K_TRAIN:]
    return (features[train], labels[train]), (features[test], labels[test])
