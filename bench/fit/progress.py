"""The progress line: iterations per second, loss, members alive, elapsed and remaining; silent off a terminal."""

from __future__ import annotations

import math
import sys
from statistics import fmean

from torch import Tensor
from tqdm import tqdm


class Progress:
    """A tqdm bar over iterations.

    Args:
        total: iterations of the run.
        show: True, False, or None for "only on a terminal".
        label: what is fitted.
    """

    def __init__(self, total: int, *, show: bool | None = None, label: str = "") -> None:
        visible = sys.stderr.isatty() if show is None else show
        self.bar = tqdm(total=total, desc=label, unit="it", disable=not visible, dynamic_ncols=True, file=sys.stderr)

    def update(self, step: int, losses: dict[str, list[list[float]]], alive: Tensor) -> None:
        if self.bar.disable:
            return
        self.bar.update(step - self.bar.n)
        shown = {}
        for player, points in losses.items():
            finite = [v for v in points[-1] if math.isfinite(v)] if points else []
            shown[player] = f"{fmean(finite):.4g}" if finite else "-"
        if not bool(alive.all()):
            shown["diverged"] = f"{int((~alive).sum())}/{len(alive)}"
        self.bar.set_postfix(shown, refresh=False)

    def close(self) -> None:
        self.bar.close()
