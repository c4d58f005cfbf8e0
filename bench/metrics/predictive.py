"""Predictive quality on held-out data, for targets that are posteriors."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch

from bench.metrics.base import Fitted, Metric, Value
from bench.registry import register
from methods.base import Method
from targets.base import Target


@register("metric", "test_log_predictive", source="Yin & Zhou 2018, arXiv:1805.11183 (held-out data)")
class TestLogPredictive(Metric):
    """Mean over test points of log mean_t p(y | x_t), with n draws x_t of q (nats per point).

    There is no floor: truth against truth has no meaning for a value that has no distance in it.

    Args:
        n: draws of q.
    """

    __test__ = False  # the name starts with "Test", which pytest would collect

    direction: ClassVar[Literal["lower", "higher"]] = "higher"
    unit: ClassVar[str] = "nats per point"

    def __init__(self, *, n: int = 2000) -> None:
        self.n = n

    def applies(self, method: Method, target: Target) -> str | None:
        return None if "test_log_predictive" in target.provides else "the target has no test data"

    @torch.no_grad()
    def __call__(self, q: Fitted) -> Value:
        return Value(float(q.target.test_log_predictive(q.draws(self.n))))
