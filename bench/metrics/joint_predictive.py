"""The held-out JOINT log likelihood that SIVI-SM and UIVI report for multinomial regression."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch

from bench.metrics.base import Fitted, Metric, Value
from bench.registry import register
from methods.base import Method
from targets.base import Target
from targets.mlr import MultinomialRegression


@register("metric", "joint_log_predictive", source="code of SIVI-SM, arXiv:2308.10014, and UIVI, arXiv:1808.02078")
class JointLogPredictive(Metric):
    """(1 / M) log mean_t prod_i p(y_i | u_i, x_t) over all M test points, with 8000 draws x_t of q (nats per point).

    The mean is over draws of the whole test set's likelihood: it is dominated by the best draw, grows with the
    number of draws, and is never above the per-point ``test_log_predictive`` of the same draws.

    Args:
        n: draws T of q (8000 in SIVI-SM, 20,000 at the end in UIVI).
    """

    direction: ClassVar[Literal["lower", "higher"]] = "higher"
    unit: ClassVar[str] = "nats per point"

    def __init__(self, *, n: int = 8000) -> None:
        self.n = n

    def applies(self, method: Method, target: Target) -> str | None:
        return None if isinstance(target, MultinomialRegression) else "the target is no multinomial regression"

    @torch.no_grad()
    def __call__(self, q: Fitted) -> Value:
        assert isinstance(q.target, MultinomialRegression)
        return Value(float(q.target.test_joint_log_predictive(q.draws(self.n))))
