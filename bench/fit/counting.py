"""How often a loss evaluates the target: rows passed to ``score``, ``log_prob`` and their noised versions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from targets.base import Noise, Target

COUNTED = ("score", "log_prob", "data_log_prob", "noised_eps", "noised_score", "noised_log_prob")
"""``data_log_prob`` is that of targets with a semi-implicit prior; the last three are those of ``Diffusable`` ones."""


@dataclass
class Count:
    """Rows evaluated so far."""

    rows: int = 0
    depth: int = 0


@contextmanager
def counted(target: Target) -> Iterator[Count]:
    """Count evaluations of ``target`` while the context is open."""
    count = Count()
    watched: list[Target] = []

    def wrap(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def counting(x: Tensor, *level: object) -> Tensor:
            # an autograd score calls log_prob inside: count the outer call only
            count.rows += x.numel() // x.shape[-1] if count.depth == 0 else 0
            count.depth += 1
            try:
                return function(x, *level)
            finally:
                count.depth -= 1

        return counting

    def watch(density: Target) -> None:
        watched.append(density)
        density.__dict__.update({name: wrap(getattr(density, name)) for name in COUNTED if hasattr(density, name)})

    def subsample(noise: Noise) -> Target:
        part = type(target).subsample(target, noise)
        if not any(part is seen for seen in watched):
            watch(part)
        return part

    watch(target)
    target.__dict__["subsample"] = subsample
    try:
        yield count
    finally:
        for density in watched:
            for name in (*COUNTED, "subsample"):
                density.__dict__.pop(name, None)
