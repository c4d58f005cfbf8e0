"""Prediction of held-out responses by Bayesian neural nets."""

from __future__ import annotations

from typing import ClassVar

import torch

from bench.metrics.base import Fitted, Metric, Value
from bench.registry import register
from methods.base import Method
from targets.base import Target
from targets.bnn import NeuralRegression


class RegressionMetric(Metric):
    """Base: n draws of q (100 in the papers); no floor, for no draws of such a posterior are at hand.

    Args:
        n: draws of q.
    """

    original_scale: ClassVar[bool] = True

    def __init__(self, *, n: int = 100) -> None:
        self.n = n

    def applies(self, method: Method, target: Target) -> str | None:
        if not isinstance(target, NeuralRegression):
            return "the target is no neural-net regression"
        if target.original_scale != self.original_scale:
            return f"the target's predictions are in {'original' if target.original_scale else 'standardised'} units"
        return None


@register("metric", "bnn_rmse", source="Cheng et al. 2024 (KSIVI), arXiv:2405.18997, table 1")
class BNNRMSE(RegressionMetric):
    """Root mean square test error of the mean prediction over 100 draws, in original units of the response."""

    published_as: ClassVar[tuple[tuple[str, str], ...]] = (("rmse", "bnn-ksivi"),)

    @torch.no_grad()
    def __call__(self, q: Fitted) -> Value:
        assert isinstance(q.target, NeuralRegression)
        return Value(float(q.target.test_rmse(q.draws(self.n))))


@register("metric", "bnn_nll", source="Cheng et al. 2024 (KSIVI), arXiv:2405.18997, table 1")
class BNNNLL(RegressionMetric):
    """Minus the mean over test points of log mean over 100 draws of N(y; f, 1 / gamma), y in original units.

    gamma is the target's: see ``targets.bnn_ksivi`` for the one behind the published values.
    """

    unit: ClassVar[str] = "nats per point"
    published_as: ClassVar[tuple[tuple[str, str], ...]] = (("nll", "bnn-ksivi"),)

    @torch.no_grad()
    def __call__(self, q: Fitted) -> Value:
        return Value(-float(q.target.test_log_predictive(q.draws(self.n))))


@register("metric", "bnn_rmse_std", source="as bnn_rmse, in the units of PVI's regressions")
class BNNRMSEStandardised(BNNRMSE):
    """Root mean square test error of the mean prediction over 100 draws, for a standardised response."""

    original_scale = False
    published_as: ClassVar[tuple[tuple[str, str], ...]] = ()


@register("metric", "bnn_rmse_draws", source="Lim & Johansen 2024 (PVI), arXiv:2407.00649, table 2, by its script")
class BNNRMSEOfDraws(RegressionMetric):
    """Root of the mean over 1000 draws of each draw's mean square test error, for a standardised response.

    Its square is that of ``bnn_rmse_std`` plus the variance of the prediction over draws.
    """

    original_scale = False
    published_as: ClassVar[tuple[tuple[str, str], ...]] = (("rmse_std", "bnn-pvi"),)

    def __init__(self, *, n: int = 1000) -> None:
        super().__init__(n=n)

    @torch.no_grad()
    def __call__(self, q: Fitted) -> Value:
        assert isinstance(q.target, NeuralRegression)
        return Value(float(q.target.test_rmse_of_draws(q.draws(self.n))))
