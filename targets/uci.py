"""UCI regression sets and their splits: the one of the KSIVI / SIVI-SM code, and one like PVI's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from bench.errors import UserError
from targets.fetch import fetch

Name = Literal["boston", "concrete", "power", "protein", "wine", "yacht"]

# file and its shape; the response is the last column
SETS: dict[Name, tuple[str, tuple[int, int]]] = {
    "boston": ("bostonHousing", (506, 14)),
    "concrete": ("concrete", (1030, 9)),
    "power": ("power-plant", (9568, 5)),
    "protein": ("protein-tertiary-structure", (45730, 10)),
    "wine": ("wine-quality-red", (1599, 12)),
    "yacht": ("yacht", (308, 7)),
}


@dataclass(frozen=True)
class Split:
    """Standardised inputs and responses of the parts, in float64; ``mean`` and ``sd`` lead back to original responses.

    Means and standard deviations (divisor N) are those of the training part; a constant column keeps sd 1.
    """

    train: tuple[Tensor, Tensor]
    dev: tuple[Tensor, Tensor] | None
    test: tuple[Tensor, Tensor]
    mean: float
    sd: float


def load(name: Name) -> np.ndarray:
    """All rows of a set, features then response, [N, p + 1].

    Raises:
        UserError: the data cannot be had, or the file is another one.
    """
    file, shape = SETS[name]
    path = fetch(f"uci/{file}.txt")
    rows = np.loadtxt(path)
    if rows.shape != shape:
        raise UserError(f"{path} holds a {rows.shape} array instead of {shape}", "replace it")
    return rows


def _standardised(train: np.ndarray, dev: np.ndarray | None, test: np.ndarray) -> Split:
    mean, sd = train.mean(0), train.std(0)
    sd[sd == 0] = 1.0

    def part(rows: np.ndarray) -> tuple[Tensor, Tensor]:
        z = torch.from_numpy((rows - mean) / sd)
        return z[:, :-1], z[:, -1]

    return Split(part(train), None if dev is None else part(dev), part(test), float(mean[-1]), float(sd[-1]))


SPLIT_SEED = 42
TEST_FRACTION = 0.1
DEV_FRACTION, DEV_MOST = 0.1, 500


def ksivi_split(name: Name) -> Split:
    """scikit-learn's 90/10 split with random_state 42; the last min(10 %, 500) training rows are the dev part."""
    from sklearn.model_selection import train_test_split

    train, test = train_test_split(load(name), test_size=TEST_FRACTION, random_state=SPLIT_SEED)
    dev = min(round(DEV_FRACTION * len(train)), DEV_MOST)
    return _standardised(train[:-dev], train[-dev:], test)


PVI_ROWS = {"protein": (1600, 401), "yacht": (246, 62), "concrete": (824, 206)}
PVI_SEED = 0


def pvi_split(name: Literal["concrete", "protein", "yacht"]) -> Split:
    """PVI's training and test sizes; rows by numpy's legacy generator with seed 0 (the paper's are not known)."""
    rows = load(name)
    n_train, n_test = PVI_ROWS[name]
    order = np.random.RandomState(PVI_SEED).permutation(len(rows))[: n_train + n_test]
    return _standardised(rows[order[:n_train]], None, rows[order[n_train:]])
