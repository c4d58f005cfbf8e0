"""Quality against network evaluations, and against seconds per 1,000 draws."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, ScalarFormatter

from bench.report.diffusion.table import Cell, Sheet
from bench.report.figures import INK, STYLE, panels, to_svg

MARKERS = "osD^vP*X<>hp"


@dataclass(frozen=True)
class Point:
    """One sampler in one column."""

    nfe: int
    cell: Cell
    solver: bool
    untrained: bool


def against_nfe(sheet: Sheet, colours: dict[str, str], prefix: str) -> str:
    """SVG, a panel per problem: a line per method through its best setting at each NFE, all its settings as points."""
    with matplotlib.rc_context(STYLE):
        figure, axes = panels(len(sheet.columns), 2, 6.0, 4.0)
        for index, axis in enumerate(axes):
            for method, points in _series(sheet, index).items():
                _line(axis, points, colours[method], method, sheet.direction)
            _finish(axis, sheet, index)
            nfes = sorted({nfe for nfe, _ in sheet.blocks})
            axis.set_xscale("log")
            axis.xaxis.set_major_locator(FixedLocator(nfes))
            axis.xaxis.set_major_formatter(ScalarFormatter())
            axis.xaxis.set_minor_formatter(NullFormatter())
            axis.set_xlabel("network evaluations per draw")
        _legend(axes)
        return to_svg(figure, prefix, f"{sheet.metric} against network evaluations")


def against_seconds(sheet: Sheet, colours: dict[str, str], prefix: str) -> str | None:
    """SVG, a panel per problem: the same values over the time of 1,000 draws; None where no run has a time."""
    if not any(p.cell.seconds for i in range(len(sheet.columns)) for s in _series(sheet, i).values() for p in s):
        return None
    with matplotlib.rc_context(STYLE):
        figure, axes = panels(len(sheet.columns), 2, 6.0, 4.0)
        for index, axis in enumerate(axes):
            for number, (method, points) in enumerate(_series(sheet, index).items()):
                timed = [p for p in points if p.cell.seconds and not p.untrained]
                style: Any = dict(color=colours[method], marker=MARKERS[number % len(MARKERS)], markersize=5, alpha=0.9)
                solver = bool(timed) and timed[0].solver
                face = "none" if solver else colours[method]
                x, y = [p.cell.seconds or 0.0 for p in timed], [_mean(p) for p in timed]
                axis.plot(x, y, linestyle="", markerfacecolor=face, label=method, **style)
                for p, place in zip(timed, zip(x, y, strict=True), strict=True):
                    axis.annotate(str(p.nfe), place, (4, 2), textcoords="offset points", fontsize=6)
            _finish(axis, sheet, index)
            axis.set_xscale("log")
            axis.xaxis.set_major_formatter(FuncFormatter(_plain))
            axis.xaxis.set_minor_formatter(NullFormatter())
            axis.set_xlabel("seconds per 1,000 draws")
        _legend(axes)
        return to_svg(figure, prefix, f"{sheet.metric} against seconds per 1,000 draws")


def _series(sheet: Sheet, column: int) -> dict[str, list[Point]]:
    """Name of a method -> its values in one column, by NFE."""
    found: dict[str, list[Point]] = defaultdict(list)
    for nfe, samplers in sheet.blocks:
        for sampler in samplers:
            cell = sampler.cells[column]
            if cell is not None and cell.row.summary is not None:
                line = sampler.line
                found[line.name].append(Point(nfe, cell, line.is_solver, line.kind == "untrained"))
    return dict(sorted(found.items(), key=lambda item: (item[1][0].solver, item[0])))


def _line(axis: Axes, points: list[Point], colour: str, label: str, direction: str) -> None:
    sign = -1 if direction == "higher" else 1
    best: dict[int, Point] = {}
    for p in sorted((p for p in points if not p.untrained), key=lambda p: sign * _mean(p)):
        best.setdefault(p.nfe, p)
    nfes = sorted(best)
    values = [list(best[nfe].cell.row.values.values()) for nfe in nfes]
    style = "--" if points[0].solver else "-"
    means = [float(np.mean(v)) for v in values]
    axis.plot(nfes, means, style, color=colour, marker="o", markersize=3.5, linewidth=1.2, label=label)
    axis.fill_between(nfes, [min(v) for v in values], [max(v) for v in values], color=colour, alpha=0.2, linewidth=0)
    for p in points:
        seeds = list(p.cell.row.values.values())
        axis.plot([p.nfe] * 2, [min(seeds), max(seeds)], color=colour, linewidth=2.5, alpha=0.4)
        if p.untrained or p is not best.get(p.nfe):
            face = "none" if p.untrained else colour
            axis.plot(p.nfe, _mean(p), "o", color=colour, markersize=3.5, markerfacecolor=face, alpha=0.6)


def _finish(axis: Axes, sheet: Sheet, column: int) -> None:
    floor = sheet.columns[column].floor
    if floor:
        axis.axhline(floor, color=INK, linewidth=0.8, linestyle=":", label="noise floor")
    axis.set_title(sheet.columns[column].problem.label)
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.yaxis.set_major_formatter(FuncFormatter(_plain))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_ylabel(f"{sheet.metric}" + (f" ({sheet.unit})" if sheet.unit else ""))


def _plain(value: float, position: int | None = None) -> str:
    return f"{value:g}"


def _legend(axes: list[Axes]) -> None:
    axes[min(1, len(axes) - 1)].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _mean(point: Point) -> float:
    assert point.cell.row.summary is not None
    return point.cell.row.summary.mean
