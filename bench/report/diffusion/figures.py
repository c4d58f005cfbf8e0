"""Quality against network evaluations, and against seconds per 1,000 draws."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import seaborn
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, ScalarFormatter

from bench.report.diffusion.lines import Line
from bench.report.diffusion.table import Cell, Sheet
from bench.report.figures import INK, STYLE, entries, panels, to_svg

MARKERS = "osD^vPX*<>hp"
Looks = Mapping[str, Mapping[str, Any]]
"""Colour and marker of every method, the same in all panels and figures of a page."""


def looks(samplers: Iterable[Line]) -> Looks:
    """By name, trained samplers first; the two kinds from palettes of their own, as there are many of both."""
    solver = {line.name: line.is_solver for line in samplers}
    found: dict[str, dict[str, str]] = {}
    for kind, colours in ((False, "tab10"), (True, "Dark2")):
        names = sorted(name for name in solver if solver[name] == kind)
        for name, colour in zip(names, seaborn.color_palette(colours, len(names)), strict=True):
            found[name] = {"color": matplotlib.colors.to_hex(colour), "marker": MARKERS[len(found) % len(MARKERS)]}
    return found


@dataclass(frozen=True)
class Point:
    """One sampler in one column."""

    nfe: int
    cell: Cell
    solver: bool
    untrained: bool


def against_nfe(sheet: Sheet, looks: Looks, prefix: str) -> str:
    """SVG, a panel per problem: a line per method through its best setting at each NFE, all its settings as points."""
    with matplotlib.rc_context(STYLE):
        figure, axes = panels([column.problem.label for column in sheet.columns], 2, 6.0, 4.0)
        for index, axis in enumerate(axes):
            for method, points in _series(sheet, index).items():
                _line(axis, points, looks[method], method, sheet.direction)
            _finish(axis, sheet, index)
            nfes = sorted({nfe for nfe, _ in sheet.blocks})
            axis.set_xscale("log")
            axis.xaxis.set_major_locator(FixedLocator(nfes))
            axis.xaxis.set_major_formatter(ScalarFormatter())
            axis.xaxis.set_minor_formatter(NullFormatter())
            axis.set_xlabel("network evaluations per draw")
        _legend(axes, looks)
        return to_svg(figure, prefix, f"{sheet.metric} against network evaluations")


def against_seconds(sheet: Sheet, looks: Looks, prefix: str) -> str | None:
    """SVG, a panel per problem with times: the same values over that of 1,000 draws; None where there are none."""
    timed = [i for i in range(len(sheet.columns)) if any(_with_time(points) for points in _series(sheet, i).values())]
    if not timed:
        return None
    with matplotlib.rc_context(STYLE):
        figure, axes = panels([sheet.columns[index].problem.label for index in timed], 2, 6.0, 4.0)
        for index, axis in zip(timed, axes, strict=True):
            for method, points in _series(sheet, index).items():
                _timed(axis, points, looks[method], method, sheet.direction)
            _finish(axis, sheet, index)
            axis.set_xscale("log")
            axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.xaxis.set_major_formatter(FuncFormatter(_plain))
            axis.xaxis.set_minor_formatter(NullFormatter())
            axis.set_xlabel("seconds per 1,000 draws")
        _legend(axes, looks)
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


def _best(points: Iterable[Point], direction: str) -> dict[int, Point]:
    """The best of the trained settings, or of a solver's, at each NFE."""
    sign = -1 if direction == "higher" else 1
    found: dict[int, Point] = {}
    for p in sorted((p for p in points if not p.untrained), key=lambda p: sign * _mean(p)):
        found.setdefault(p.nfe, p)
    return found


def _line(axis: Axes, points: list[Point], look: Mapping[str, Any], label: str, direction: str) -> None:
    best = _best(points, direction)
    nfes = sorted(best)
    values = [list(best[nfe].cell.row.values.values()) for nfe in nfes]
    style, colour = "--" if points[0].solver else "-", look["color"]
    means = [float(np.mean(v)) for v in values]
    axis.plot(nfes, means, style, markersize=4.5, linewidth=1.2, label=label, **look)
    axis.fill_between(nfes, [min(v) for v in values], [max(v) for v in values], color=colour, alpha=0.2, linewidth=0)
    for p in points:
        seeds = list(p.cell.row.values.values())
        axis.plot([p.nfe] * 2, [min(seeds), max(seeds)], color=colour, linewidth=2.5, alpha=0.4)
        if p.untrained or p is not best.get(p.nfe):
            face = "none" if p.untrained else colour
            axis.plot(p.nfe, _mean(p), markersize=4, markerfacecolor=face, alpha=0.5, **look)


def _with_time(points: Iterable[Point]) -> list[Point]:
    """What is drawn against seconds."""
    return [p for p in points if p.cell.seconds and not p.untrained]


def _timed(axis: Axes, points: list[Point], look: Mapping[str, Any], label: str, direction: str) -> None:
    timed = _with_time(points)
    face = "none" if points[0].solver else look["color"]
    x, y = [p.cell.seconds or 0.0 for p in timed], [_mean(p) for p in timed]
    axis.plot(x, y, linestyle="", markersize=5, alpha=0.9, markerfacecolor=face, label=label, **look)
    for nfe, p in _best(timed, direction).items():
        place = (p.cell.seconds or 0.0, _mean(p))
        axis.annotate(str(nfe), place, (4, 2), textcoords="offset points", fontsize=6, color=look["color"])


def _finish(axis: Axes, sheet: Sheet, column: int) -> None:
    floor = sheet.columns[column].floor
    if floor:
        axis.axhline(floor, color=INK, linewidth=0.8, linestyle=":", label="noise floor")
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.yaxis.set_major_formatter(FuncFormatter(_plain))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_ylabel(f"{sheet.metric}" + (f" ({sheet.unit})" if sheet.unit else ""))


def _plain(value: float, position: int | None = None) -> str:
    return f"{value:g}"


def _legend(axes: list[Axes], looks: Looks) -> None:
    """One for all panels, as no panel need have every method."""
    found = entries(axes)
    order = [*(name for name in looks if name in found), *(label for label in found if label not in looks)]
    beside = axes[min(1, len(axes) - 1)]
    beside.legend([found[label] for label in order], order, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _mean(point: Point) -> float:
    assert point.cell.row.summary is not None
    return point.cell.row.summary.mean
