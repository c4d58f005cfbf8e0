"""How many network evaluations one draw costs: counted while the sampler runs, never taken from its configuration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bench.metrics.base import Fitted, Metric, Value
from bench.registry import register
from methods.base import Method
from targets.base import Target


@dataclass
class Evaluations:
    """Rows passed to the counted modules."""

    rows: int = 0
    depth: int = 0


@contextmanager
def counted_rows(modules: Sequence[nn.Module]) -> Iterator[Evaluations]:
    """Count the rows of the first argument [..., d] of every call of ``modules``; calls within calls count once."""
    found = Evaluations()

    def before(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        x: Tensor = arguments[0]
        found.rows += x.shape[:-1].numel() if found.depth == 0 else 0
        found.depth += 1

    def after(module: nn.Module, arguments: tuple[Any, ...], output: object) -> None:
        found.depth -= 1

    handles = []
    for module in modules:
        handles.append(module.register_forward_pre_hook(before))
        handles.append(module.register_forward_hook(after, always_call=True))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@register("metric", "nfe", source="counted by this suite")
class NFE(Metric):
    """Network evaluations per draw, counted by hooks on the networks while n draws are made.

    Args:
        n: draws.
    """

    unit: ClassVar[str] = "evaluations"

    def __init__(self, *, n: int = 16) -> None:
        self.n = n

    def applies(self, method: Method, target: Target) -> str | None:
        return None if method.networks() else "the method evaluates no network when it samples"

    @torch.no_grad()
    def __call__(self, q: Fitted) -> Value:
        with counted_rows(q.method.networks()) as found:
            q.fitted_draws(self.n)
        return Value(found.rows / self.n)
