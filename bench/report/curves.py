"""What happened during training: losses and the followed metric, with a band over seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from bench.report.figures import STYLE, Look, legend_below, panels, to_svg
from bench.report.groups import Group
from bench.report.table import Section

Curve = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def loss_curves(section: Section, looks: Mapping[str, Look], prefix: str) -> str | None:
    """SVG with one panel per configuration and player (losses of different methods share no axis), or None."""
    found = []
    for group in section.groups:
        series: dict[str, list[Any]] = defaultdict(list)
        for record in group.records:
            for player, line in ((record.get("curve") or {}).get("loss") or {}).items():
                series[player].append(line)
        for player, lines in series.items():
            curve = band(lines)
            if curve is not None:
                found.append((group.label, player if len(series) > 1 else "", curve))
    if not found:
        return None
    with matplotlib.rc_context(STYLE):
        titles = [f"{label} · {player}" if player else label for label, player, _ in found]
        figure, axes = panels(titles, 4, 3.0, 2.0)
        for axis, (label, _, curve) in zip(axes, found, strict=True):
            _draw(axis, curve, Look(looks[label].colour, "-"))
            axis.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=""))
            axis.locator_params(axis="both", nbins=4)
        return to_svg(figure, prefix, f"Training losses on {section.problem.label}")


def metric_curves(section: Section, looks: Mapping[str, Look], prefix: str) -> str | None:
    """SVG with one panel per metric and protocol, all configurations overlaid, or None."""
    found: dict[tuple[str, str], list[tuple[str, Curve]]] = defaultdict(list)
    for group in section.groups:
        for key, lines in _followed(group).items():
            curve = band(lines)
            if curve is not None:
                found[key].append((group.label, curve))
    if not found:
        return None
    names = [metric for metric, _ in found]
    with matplotlib.rc_context(STYLE):
        titles = [f"{name} [protocol {id}]" if names.count(name) > 1 else name for name, id in sorted(found)]
        figure, axes = panels(titles, 2, 7.5 if len(found) == 1 else 6.0, 3.4)
        for axis, (_, lines) in zip(axes, sorted(found.items()), strict=True):
            for label, curve in lines:
                _draw(axis, curve, looks[label], label)
            if all((curve[2] > 0).all() for _, curve in lines):
                axis.set_yscale("log")
            axis.set_xlabel("iteration")
            axis.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=""))
        legend_below(figure, axes)
        return to_svg(figure, prefix, f"Metrics during training on {section.problem.label}")


def _followed(group: Group) -> dict[tuple[str, str], list[Any]]:
    series: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for record in group.records:
        for metric, line in ((record.get("curve") or {}).get("metrics") or {}).items():
            series[metric, line.get("protocol", "")].append(line)
    return series


def band(lines: Sequence[dict[str, list[Any]]]) -> Curve | None:
    """(steps, median, lowest, highest) over the seeds that have a finite value at a step; None if there is none."""
    at: dict[float, list[float]] = defaultdict(list)
    for line in lines:
        for step, value in zip(line["step"], line["value"], strict=False):
            if value is not None and np.isfinite(value):
                at[step].append(float(value))
    if not at:
        return None
    steps = sorted(at)
    values = [at[step] for step in steps]
    rows = ([np.median(v) for v in values], [min(v) for v in values], [max(v) for v in values])
    return (np.asarray(steps, dtype=float), *(np.asarray(row, dtype=float) for row in rows))  # type: ignore[return-value]


def _draw(axis: Axes, curve: Curve, look: Look, label: str = "") -> None:
    steps, median, low, high = curve
    axis.fill_between(steps, low, high, color=look.colour, alpha=0.2, linewidth=0)
    marker = "o" if len(steps) == 1 else ""
    axis.plot(steps, median, color=look.colour, linestyle=look.line, linewidth=1.2, label=label, marker=marker)
