"""HAPT (smartphone-based recognition of human activities and postural transitions), from an offline folder.

The publisher's archive (archive.ics.uci.edu, data set 341) has no digest of ours, so it is not downloaded: unpack it,
and put its folders ``Train`` and ``Test`` into ``hapt`` under SIVIBENCH_DATA or under the cache folder.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.errors import UserError
from bench.places import data_places

SHAPES = {"Train": (7767, 561), "Test": (3162, 561)}
CLASSES = 12


def load_hapt() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Training and test part: features [N, 561] in [-1, 1], labels 0..11 [N].

    Raises:
        UserError: the files are not there, or have other shapes.
    """
    folder = _folder()
    return _part(folder, "Train"), _part(folder, "Test")


def _folder() -> Path:
    places = data_places("hapt")
    for place in places:
        if (place / "Train" / "X_train.txt").is_file():
            return place
    raise UserError(
        "the HAPT data are not here:\n     " + "\n     ".join(f"{p}/Train/X_train.txt does not exist" for p in places),
        "unpack the archive of https://archive.ics.uci.edu/dataset/341 and put its folders Train and Test into "
        f"{places[0]}",
    )


def _part(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    low = part.lower()
    paths = folder / part / f"X_{low}.txt", folder / part / f"y_{low}.txt"
    try:
        features, labels = np.loadtxt(paths[0]), np.loadtxt(paths[1]).astype(np.int64)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {paths[0]} and {paths[1]}: {error}", "unpack the archive again") from error
    if features.shape != SHAPES[part] or labels.shape != SHAPES[part][:1]:
        raise UserError(f"{paths[0]} has shape {features.shape} instead of {SHAPES[part]}", "unpack the archive again")
    if labels.min() < 1 or labels.max() > CLASSES:
        raise UserError(f"{paths[1]} has labels outside 1..{CLASSES}", "unpack the archive again")
    return features, labels - 1
