"""The progress line: iterations per second, loss, members alive, elapsed and remaining; off a terminal one a minute."""

from __future__ import annotations

import math
import sys
import time
from statistics import fmean

from torch import Tensor
from tqdm import tqdm

QUIET = 60.0
"""Seconds between two lines where there is no terminal."""


class Progress:
    """A tqdm bar over iterations.

    Args:
        total: iterations of the run.
        show: True, False, or None for a bar on a terminal and now and then a line elsewhere.
        label: what is fitted.
    """

    def __init__(self, total: int, *, show: bool | None = None, label: str = "") -> None:
        self.total, self.label = total, label
        self.tells, self.told = show is None, time.monotonic()
        visible = sys.stderr.isatty() if show is None else show
        self.bar = tqdm(total=total, desc=label, unit="it", disable=not visible, dynamic_ncols=True, file=sys.stderr)

    def resume(self, step: int) -> None:
        """The run goes on from ``step``: what was done before does not count for its rate."""
        self.bar.initial = self.bar.n = self.bar.last_print_n = step

    def update(self, step: int, losses: dict[str, list[list[float]]], alive: Tensor) -> None:
        if self.bar.disable:
            self._tell(step)
            return
        self.bar.update(step - self.bar.n)
        shown = {}
        for player, points in losses.items():
            finite = [v for v in points[-1] if math.isfinite(v)] if points else []
            shown[player] = f"{fmean(finite):.4g}" if finite else "-"
        if not bool(alive.all()):
            shown["diverged"] = f"{int((~alive).sum())}/{len(alive)}"
        self.bar.set_postfix(shown, refresh=False)

    def _tell(self, step: int) -> None:
        now = time.monotonic()
        if self.tells and now - self.told >= QUIET:
            self.told = now
            print(f"{self.label}: {step} of {self.total} iterations", file=sys.stderr, flush=True)

    def close(self) -> None:
        self.bar.close()
