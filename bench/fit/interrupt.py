"""Signals that ask a fit to stop: it ends at the next point where its state is whole, with a checkpoint.

A handler runs between any two bytecodes, so while a fit is in the middle of its iterations the signal is only noted.
Everywhere else (loading, evaluating) there is nothing to save and the exception comes at once.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(BaseException):
    """Asked to stop by a signal.  No ``Exception``: what a method raises is recorded as a failure, this is none.

    Attributes:
        number: the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


_depth = 0
_pending: int | None = None


@contextmanager
def listening(*numbers: signal.Signals) -> Iterator[None]:
    """Within the block these signals raise ``Interrupted``, a second Ctrl-C ``KeyboardInterrupt`` at once; main thread
    only."""
    global _pending
    before = {number: signal.signal(number, _handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _pending = None


@contextmanager
def held() -> Iterator[None]:
    """Within the block signals are noted, for ``pending`` to tell; what is noted last is raised at the end."""
    global _depth
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
    raise_pending()


def pending() -> bool:
    """Whether a stop has been asked for."""
    return _pending is not None


def raise_pending() -> None:
    """Raise what was noted.

    Raises:
        Interrupted: a signal came while they were held.
    """
    global _pending
    if _pending is not None and _depth == 0:
        number, _pending = _pending, None
        raise Interrupted(number)


def _handle(number: int, frame: FrameType | None) -> None:
    global _pending
    if _depth == 0:
        raise Interrupted(number)
    if number == _pending == signal.SIGINT:  # an iteration, or compiling one, may take longer than patience
        raise KeyboardInterrupt
    # SLURM warns by SIGUSR2 and then sends SIGTERM: the first one says why.
    _pending = number if _pending is None else _pending
