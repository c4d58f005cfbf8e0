"""Figures of one run, drawn from its record alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def figures(record: Mapping[str, Any]) -> dict[str, Figure]:
    """``curves`` (losses and followed metrics over iterations) and ``samples`` (draws of q, 2-D), where there are."""
    found = {}
    lines = [(f"loss {name}", line) for name, line in (record["curve"].get("loss") or {}).items()]
    lines += list((record["curve"].get("metrics") or {}).items())
    if lines:
        figure, axes = _panels(len(lines))
        for axis, (title, line) in zip(axes, lines, strict=True):
            known = [(s, v) for s, v in zip(line["step"], line["value"], strict=True) if v is not None]
            axis.plot(*zip(*known, strict=True) if known else ([], []), linewidth=1)
            axis.set(title=title, xlabel="iteration")
        found["curves"] = figure
    if record.get("samples"):
        figure, [axis] = _panels(1)
        axis.plot(*zip(*record["samples"], strict=True), ".", markersize=3, alpha=0.7, markeredgewidth=0)
        axis.set(title=f"{len(record['samples'])} draws")
        found["samples"] = figure
    return found


def _panels(n: int) -> tuple[Figure, list[Any]]:
    figure = Figure(figsize=(4.0 * n, 3.0), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, n, squeeze=False).ravel().tolist()
