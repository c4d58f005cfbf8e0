"""Multinomial logistic regression: the SIVI-SM and UIVI experiments on MNIST and HAPT.

p(y_i | u_i, W) = softmax(W' u_i)_{y_i},    W ~ N(0, I),    u_i with a constant 1 among its entries
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.checks import require_choice
from bench.registry import register
from targets.data_posterior import HELD, DataPosterior
from targets.hapt import load_hapt
from targets.mnist import Files, load_mnist

Bias = Literal["first", "last"]
SOURCE = "Titsias & Ruiz 2019 (UIVI), arXiv:1808.02078; Yu & Zhang 2023 (SIVI-SM), arXiv:2308.10014"


class MultinomialRegression(DataPosterior):
    """Posterior of W [D + 1, K], row by row in one vector, under the prior N(0, I).

    Args:
        train, test: features [N, D] and labels 0..K-1 [N] of each part.
        classes: K.
        bias: where the constant 1 stands in u: ``first`` (SIVI-SM) or ``last`` (UIVI); a permutation of x.
        batch: rows of a minibatch; 0: all.

    Raises:
        UserError: another place for the bias.
    """

    metrics = ("test_log_predictive", "joint_log_predictive")
    curve_metric = "test_log_predictive"

    test_inputs: Tensor
    test_outputs: Tensor

    def __init__(
        self,
        train: tuple[np.ndarray, np.ndarray],
        test: tuple[np.ndarray, np.ndarray],
        *,
        classes: int,
        bias: Bias,
        batch: int,
    ) -> None:
        require_choice(Bias, "target", bias=bias)

        def part(data: tuple[np.ndarray, np.ndarray]) -> tuple[Tensor, Tensor]:
            u, y = torch.from_numpy(data[0]).to(torch.get_default_dtype()), torch.tensor(data[1]).long()
            one = torch.ones_like(u[:, :1])
            return torch.cat((one, u) if bias == "first" else (u, one), dim=1), F.one_hot(y, classes).to(u.dtype)

        super().__init__(*part(train), prior_precision=1.0, batch=batch)
        self.width = self.classes = classes
        self.dim = self.inputs.shape[1] * classes
        test_inputs, test_outputs = part(test)
        self.register_buffer("test_inputs", test_inputs)
        self.register_buffer("test_outputs", test_outputs)

    def _logits(self, x: Tensor, inputs: Tensor) -> Tensor:
        """[..., d], [B, D + 1] -> [..., B, K]."""
        return inputs @ x.unflatten(-1, (-1, self.classes))

    def log_likelihood(self, x: Tensor, inputs: Tensor, outputs: Tensor) -> Tensor:
        """Sum over rows of log softmax at the label (``outputs`` is one-hot); [..., d] -> [...] (nats)."""
        return (F.log_softmax(self._logits(x, inputs), dim=-1) * outputs).sum((-2, -1))

    def likelihood_score(self, x: Tensor, inputs: Tensor, outputs: Tensor) -> Tensor:
        """U' (Y - softmax(U W)); [..., d] -> [..., d]."""
        return (inputs.mT @ (outputs - F.softmax(self._logits(x, inputs), dim=-1))).flatten(-2)

    def _test_log_p(self, x: Tensor) -> Iterator[Tensor]:
        """log p(y_i | u_i, W_t) at the test points, in blocks of draws [m, M]; draws x [n, d]."""
        for draws in x.split(max(1, HELD // self.test_outputs.numel())):
            yield (F.log_softmax(self._logits(draws, self.test_inputs), dim=-1) * self.test_outputs).sum(-1)

    def test_log_predictive(self, x: Tensor) -> Tensor:
        """Mean over test points of log mean over draws p(y_i | u_i, W_t); [n, d] -> scalar (nats per point)."""
        total = torch.stack([log_p.logsumexp(0) for log_p in self._test_log_p(x)]).logsumexp(0)
        return total.mean() - math.log(len(x))

    def test_joint_log_predictive(self, x: Tensor) -> Tensor:
        """(1 / M) log mean over draws prod_i p(y_i | u_i, W_t); [n, d] -> scalar (nats per point)."""
        joint = torch.cat([log_p.sum(-1) for log_p in self._test_log_p(x)])
        return (joint.logsumexp(0) - math.log(len(x))) / len(self.test_inputs)


@register("target", "mlr_mnist", source=f"{SOURCE}; MNIST")
class MNIST(MultinomialRegression):
    """Multinomial regression on MNIST, 7850 coefficients: 8000 training and 2000 test images of the t10k files.

    Args:
        data: ``t10k``: the 10,000 images of MNIST's TEST files alone, split 8000 / 2000 by a fixed permutation, which
            is NOT the papers' data; ``full``: their 60,000 training and 10,000 test images.
        batch: rows of a minibatch (2000 in SIVI-SM); 0: all.
        bias: ``first`` (SIVI-SM) or ``last`` (UIVI).

    Raises:
        UserError: another choice, or the files cannot be had.
    """

    def __init__(self, *, data: Files = "t10k", batch: int = 2000, bias: Bias = "first") -> None:
        train, test = load_mnist(data)
        super().__init__(train, test, classes=10, bias=bias, batch=batch)


@register("target", "mlr_hapt", source=f"{SOURCE}; UCI HAPT (Reyes-Ortiz et al. 2015)")
class HAPT(MultinomialRegression):
    """Multinomial regression on HAPT, 6744 coefficients: 7767 training and 3162 test windows, 561 features.

    Args:
        batch: rows of a minibatch (863 in SIVI-SM); 0: all.
        bias: ``first`` or ``last``.

    Raises:
        UserError: another choice, or the files are not there (see ``targets.hapt``).
    """

    def __init__(self, *, batch: int = 863, bias: Bias = "first") -> None:
        train, test = load_hapt()
        super().__init__(train, test, classes=12, bias=bias, batch=batch)
