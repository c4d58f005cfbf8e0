"""How often a loss evaluates the target: rows passed to ``score`` and ``log_prob``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass
class Count:
    """Rows evaluated so far."""

    rows: int = 0
    depth: int = 0


@contextmanager
def counted(target: nn.Module) -> Iterator[Count]:
    """Count evaluations of ``target`` while the context is open."""
    count = Count()

    def wrap(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def counting(x: Tensor) -> Tensor:
            # an autograd score calls log_prob inside: count the outer call only
            count.rows += x.numel() // x.shape[-1] if count.depth == 0 else 0
            count.depth += 1
            try:
                return function(x)
            finally:
                count.depth -= 1

        return counting

    wrapped = {name: wrap(getattr(target, name)) for name in ("score", "log_prob")}
    target.__dict__.update(wrapped)
    try:
        yield count
    finally:
        for name in wrapped:
            del target.__dict__[name]
