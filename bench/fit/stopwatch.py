"""Seconds of the iterations, and of what is done between them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


class Stopwatch:
    """Runs from its making on, but for what is timed apart; both by the clock and by the processor.

    Args:
        before, cpu_before: seconds of earlier attempts.
    """

    def __init__(self, before: float = 0.0, cpu_before: float = 0.0) -> None:
        self._started = _now() - (before, cpu_before)
        self._stopped: np.ndarray | None = None

    @property
    def seconds(self) -> float:
        """Wall time."""
        return float(self._passed()[0])

    @property
    def cpu_seconds(self) -> float:
        """Time of this process on processors, which other work beside it does not lengthen."""
        return float(self._passed()[1])

    @contextmanager
    def apart(self) -> Iterator[Stopwatch]:
        """Gives a stopwatch of the block, which keeps its time after the block; this one leaves it out."""
        block = Stopwatch()
        yield block
        block._stopped = _now()
        self._started = self._started + block._passed()

    def _passed(self) -> np.ndarray:
        return (_now() if self._stopped is None else self._stopped) - self._started


def _now() -> np.ndarray:
    return np.array([time.perf_counter(), time.process_time()])
