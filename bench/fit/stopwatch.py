"""Seconds of the iterations, and of what is done between them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Runs from its making on, but for what is timed apart.

    Args:
        before: seconds of earlier attempts.
    """

    def __init__(self, before: float = 0.0) -> None:
        self._started, self._stopped = time.perf_counter() - before, 0.0

    @property
    def seconds(self) -> float:
        return (self._stopped or time.perf_counter()) - self._started

    @contextmanager
    def apart(self) -> Iterator[Stopwatch]:
        """Gives a stopwatch of the block, which keeps its time after the block; this one leaves it out."""
        block = Stopwatch()
        yield block
        block._stopped = time.perf_counter()
        self._started += block.seconds
