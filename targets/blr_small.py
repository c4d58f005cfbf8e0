"""The two small logistic regressions of the SIVI paper, in the form of ``targets.blr``."""

from __future__ import annotations

import numpy as np

from bench.errors import UserError
from bench.registry import register
from targets.blr import LogisticRegression
from targets.fetch import fetch


@register("target", "blr_spam", source="Yin & Zhou 2018 (SIVI), data/spam_*.txt of its code; UCI spambase")
class Spam(LogisticRegression):
    """Logistic regression on spam: 2000 training and 1000 test points, two word rates and an intercept.

    Features are as published, not standardised.  All 1000 test labels are 1 while 40 % of the training labels are, so
    the test log predictive says little about calibration.

    Args:
        prior_precision: alpha; .01 in the papers (prior variance 100).
    """

    def __init__(self, *, prior_precision: float = 0.01) -> None:
        paths = [fetch(f"blr/spam_{part}.txt") for part in ("xtr", "ytr", "xte", "yte")]
        x_train, y_train, x_test, y_test = (_table(path) for path in paths)
        if x_train.shape != (2000, 3) or x_test.shape != (1000, 3) or not (x_train[:, 0] == 1).all():
            raise UserError(f"{paths[0]} does not hold the spam data: {x_train.shape} and {x_test.shape}", "replace it")
        super().__init__(x_train, y_train, x_test, y_test, prior_precision)


def _table(path: object) -> np.ndarray:
    """Numbers separated by commas or blanks."""
    with open(str(path), encoding="utf-8") as file:
        return np.array([[float(v) for v in line.replace(",", " ").split()] for line in file]).squeeze()


@register("target", "blr_nodal", source="Yin & Zhou 2018 (SIVI), data/nodal.mat of its code; Brown 1980")
class Nodal(LogisticRegression):
    """Logistic regression on nodal involvement: 25 training and 28 test points, five indicators and an intercept.

    Twenty-five points leave a wide, skewed posterior: the hardest of the three for Gaussian approximations.

    Args:
        prior_precision: alpha; .01 in the papers (prior variance 100).
    """

    def __init__(self, *, prior_precision: float = 0.01) -> None:
        from scipy.io import loadmat

        path = fetch("blr/nodal.mat")
        data = loadmat(path)
        x_train, x_test = (data[key].astype(np.float64) for key in ("X_train", "X_test"))
        if x_train.shape != (25, 6) or x_test.shape != (28, 6) or not (x_train[:, 0] == 1).all():
            raise UserError(f"{path} does not hold the nodal data: {x_train.shape} and {x_test.shape}", "replace it")
        super().__init__(x_train, data["y_train"].ravel(), x_test, data["y_test"].ravel(), prior_precision)
