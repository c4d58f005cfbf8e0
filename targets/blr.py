"""Bayesian logistic regression posteriors: a closed-form score made of two matrix products, stored reference draws.

log p(beta) = sum_i log sigmoid(s_i x_i' beta) + log N(beta; 0, I / alpha),  s_i = 2 y_i - 1 in {-1, +1}.

Both sums go through the signed design Z = diag(s) X only, so the work is a product of [B, d] by the shared [d, N]
(and back for the score), also for derivatives of the score and under ``vmap`` over seeds.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.checks import require_positive
from bench.errors import UserError
from bench.registry import register
from targets.base import Target
from targets.fetch import fetch
from targets.stored_draws import load_reference

CHUNK = 2**22
"""Largest number of (draw, test point) pairs held at once by ``test_log_predictive``."""


class LogisticRegression(Target):
    """Posterior of the coefficients beta of a logistic regression with prior N(0, I / prior_precision).

    The prior's constant is included, so the log evidence is the ``log_z`` one would estimate.

    Args:
        x_train: features with a leading column of ones, [N, d].
        y_train: labels 0 or 1, [N].
        x_test, y_test: the same for held-out points, [M, d] and [M].
        prior_precision: alpha.
    """

    metrics = (
        "sliced_w2",
        "sliced_w1",
        "marginal_mean_error",
        "marginal_sd_error",
        "correlation_rmse",
        "test_log_predictive",
        "mmd",
        "ksd",
    )
    curve_metric = "sliced_w2"
    reference_sampler = "mala"  # log-concave, so one mode

    signed_design: Tensor
    signed_test: Tensor

    def __init__(
        self, x_train: np.ndarray, y_train: np.ndarray, x_test: np.ndarray, y_test: np.ndarray, prior_precision: float
    ) -> None:
        super().__init__()
        require_positive("target", prior_precision=prior_precision)
        self.dim = x_train.shape[1]
        self.prior_precision = prior_precision
        for name, x, y in (("signed_design", x_train, y_train), ("signed_test", x_test, y_test)):
            sign = 2.0 * np.asarray(y, dtype=np.float64).reshape(-1, 1) - 1.0
            self.register_buffer(name, torch.as_tensor(sign * x, dtype=torch.get_default_dtype()))

    def log_prob(self, x: Tensor) -> Tensor:
        """Log likelihood plus log prior; [..., d] -> [...] (nats)."""
        log_likelihood = F.logsigmoid(x @ self.signed_design.T).sum(-1)
        constant = 0.5 * self.dim * math.log(self.prior_precision / (2 * math.pi))
        return log_likelihood - 0.5 * self.prior_precision * x.square().sum(-1) + constant

    def score(self, x: Tensor) -> Tensor:
        """X'(y - sigmoid(X beta)) - alpha beta = Z' sigmoid(-Z beta) - alpha beta; [..., d] -> [..., d]."""
        return torch.sigmoid(-(x @ self.signed_design.T)) @ self.signed_design - self.prior_precision * x

    def test_log_predictive(self, x: Tensor) -> Tensor:
        """Mean over test points of log mean over draws p(y | beta); draws [n, d] -> scalar (nats per point)."""
        total = x.new_zeros(())
        for points in self.signed_test.split(max(1, CHUNK // len(x))):
            total = total + torch.logsumexp(F.logsigmoid(x @ points.T), dim=0).sum()
        return total / len(self.signed_test) - math.log(len(x))

    def reference(self) -> Tensor:
        """Stored MALA draws, [m, d] (CPU, float32); made by ``sivibench reference <target>``.

        Raises:
            UserError: the file is missing, corrupt or of another target version.
            Unsupported: the stored draws belong to another ``prior_precision``.
        """
        return load_reference(self.registered_name, self.version, {"prior_precision": self.prior_precision})


@register(
    "target", "blr_waveform", source="Yin & Zhou 2018 (SIVI), data/waveform.mat of its code; UCI waveform / Raetsch"
)
class Waveform(LogisticRegression):
    """Logistic regression on waveform: 400 training and 4600 test points, 21 features and an intercept.

    Args:
        prior_precision: alpha; .01 in the papers (prior variance 100).
    """

    def __init__(self, *, prior_precision: float = 0.01) -> None:
        from scipy.io import loadmat

        path = fetch("blr/waveform.mat")
        data = loadmat(path)
        x_train, x_test = data["X_train"], data["X_test"]
        if x_train.shape != (400, 22) or x_test.shape != (4600, 22) or not (x_train[:, 0] == 1).all():
            raise UserError(
                f"{path} does not hold the waveform data: X_train {x_train.shape}, X_test {x_test.shape}; expected are "
                "(400, 22) and (4600, 22) with ones in the first column",
                "delete the file, so that it is fetched again",
            )
        super().__init__(x_train, data["y_train"].ravel(), x_test, data["y_test"].ravel(), prior_precision)


SPLIT_SEED = 0
TEST_FRACTION = 0.2


@register("target", "blr_breast_cancer", source="Wisconsin diagnostic breast cancer data as bundled with scikit-learn")
class BreastCancer(LogisticRegression):
    """Logistic regression on breast cancer: 455 training and 114 test points, 30 features and an intercept.

    Features are standardised with training means and standard deviations.  The split is a fixed 80/20 permutation
    of numpy's legacy generator (whose stream never changes) seeded with ``SPLIT_SEED``.

    Args:
        prior_precision: alpha; 1 here because the classes are nearly separable: under the papers' .01 the
            posterior follows the prior's scale of 10 rather than the data.
    """

    def __init__(self, *, prior_precision: float = 1.0) -> None:
        from sklearn.datasets import load_breast_cancer

        features, labels = load_breast_cancer(return_X_y=True)
        order = np.random.RandomState(SPLIT_SEED).permutation(len(features))
        n_test = round(TEST_FRACTION * len(features))
        test, train = order[:n_test], order[n_test:]
        mean, sd = features[train].mean(0), features[train].std(0)
        x = np.concatenate([np.ones((len(features), 1)), (features - mean) / sd], axis=1)
        super().__init__(x[train], labels[train], x[test], labels[test], prior_precision)
