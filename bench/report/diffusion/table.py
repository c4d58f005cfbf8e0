"""Few-step samplers compared: quality at equal numbers of network evaluations (NFE).

Rows are samplers, grouped by their NFE; columns are problems (a target with its teacher) under one protocol.  A trained
sampler has a row per setting, never the best of them.  Of a training-free solver the best of all settings on record is
shown, per column, chosen by the very value it is shown with, which favours the solver; and its settings on the time
grid of a trained sampler.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from bench.report import catalog
from bench.report.diffusion.lines import BEST, Line, lines_of
from bench.report.diffusion.settings import teacher_name
from bench.report.groups import Group, Problem, Record, group, nfe_of, ordered
from bench.report.table import Row, best_first, mean, ranks, row_of, typical_floor


@dataclass(frozen=True)
class Cell:
    """One value: a row of the ordinary tables, its rank in column and NFE, and which of a solver's settings it is."""

    row: Row
    rank: int | None
    setting: str
    seconds: float | None
    """Per 1,000 draws."""
    among: int
    """Settings that this is the best of: those run here for this metric, failed ones included."""


@dataclass(frozen=True)
class ColumnOrder:
    """How the configurations of one column and NFE stand, by config_id."""

    ranks: Mapping[str, int]
    """One seed has none, as nothing is known of its noise."""
    places: Mapping[str, int]
    """By mean, from 1, of all that have a value."""


@dataclass(frozen=True)
class Sampler:
    """A line of a sheet; ``cells`` has one entry per column."""

    line: Line
    cells: tuple[Cell | None, ...]

    @property
    def choices(self) -> tuple[int, ...]:
        """Of how many settings the cells are the best, each number once; empty where nothing was chosen."""
        counts = {cell.among for cell in self.cells if cell is not None and cell.among}
        return tuple(sorted(counts)) if self.line.kind == BEST else ()

    @property
    def kind(self) -> str:
        """``best of 12``, or ``best of 3 to 12`` where columns differ; of other lines their own kind."""
        if not self.choices:
            return self.line.kind
        fewest, most = self.choices[0], self.choices[-1]
        return f"{BEST} of {fewest}" if fewest == most else f"{BEST} of {fewest} to {most}"


@dataclass(frozen=True)
class Column:
    """A problem under one protocol."""

    problem: Problem
    protocol_id: str
    teacher: str
    floor: float | None
    """Mean over all values of the column."""


@dataclass(frozen=True)
class Sheet:
    """One metric: blocks of samplers by NFE."""

    metric: str
    direction: str
    unit: str
    columns: tuple[Column, ...]
    blocks: tuple[tuple[int, tuple[Sampler, ...]], ...]


@dataclass(frozen=True)
class Comparison:
    """Everything the renderers need; ``notes`` explain the marks of long settings."""

    sheets: tuple[Sheet, ...]
    notes: dict[str, str]
    records: tuple[Record, ...] = field(compare=False)
    groups: tuple[Group, ...] = field(compare=False)


def compare(records: Iterable[Record], metrics: Sequence[str] = ()) -> Comparison:
    """The comparison of the runs that have an NFE.

    Args:
        records: run records; others than of few-step samplers are passed over.
        metrics: which to show; by default each target's first one, and those by which both a trained sampler and a
            solver were measured on it.

    Raises:
        UserError: two different records claim the same run.
    """
    kept = [r for r in ordered(records) if nfe_of([r]) is not None]
    groups = group(kept)
    notes: dict[str, str] = {}
    by_nfe: dict[int, list[Group]] = defaultdict(list)
    for member in groups:
        nfe = nfe_of(member.records)
        assert nfe is not None
        by_nfe[nfe].append(member)
    lines = {nfe: lines_of(by_nfe[nfe], notes) for nfe in sorted(by_nfe)}
    names = list(dict.fromkeys(metrics or (m for p in _problems(groups) for m in _shown(p, groups))))
    sheets = [_sheet(metric, groups, lines) for metric in names]
    return Comparison(tuple(s for s in sheets if s.columns), notes, tuple(kept), tuple(groups))


def _problems(groups: Iterable[Group]) -> list[Problem]:
    return sorted({g.problem for g in groups}, key=lambda p: p.label)


def _shown(problem: Problem, groups: Iterable[Group]) -> list[str]:
    """The metrics of a problem that this comparison is about."""
    by: dict[bool, set[str]] = {True: set(), False: set()}
    for member in groups:
        if member.problem == problem:
            by[catalog.is_trained(member.method)] |= {m for r in member.done for m in r["metrics"]}
    declared = [m for m in catalog.target_metrics(problem.name) if m in by[True] | by[False]]
    both = [m for m in (*declared, *sorted(by[True])) if m in by[True] & by[False] and m != "nfe"]
    return list(dict.fromkeys([*declared[:1], *both]))


def _sheet(metric: str, groups: Sequence[Group], lines: dict[int, list[Line]]) -> Sheet:
    columns = [c for problem in _problems(groups) for c in _columns(metric, problem, groups)]
    direction, unit = catalog.metric_info(metric).direction, catalog.metric_info(metric).unit
    blocks = []
    for nfe, found in lines.items():
        samplers = _block(metric, direction, columns, found)
        if samplers:
            blocks.append((nfe, samplers))
    return Sheet(metric, direction, unit, tuple(columns), tuple(blocks))


def _columns(metric: str, problem: Problem, groups: Iterable[Group]) -> list[Column]:
    by_protocol: dict[str, list[Record]] = defaultdict(list)
    for record in (r for g in groups if g.problem == problem for r in g.done):
        if metric in record["metrics"]:
            by_protocol[record["metrics"][metric]["protocol"]].append(record)
    columns = []
    for protocol, records in sorted(by_protocol.items()):
        floors = [r["metrics"][metric].get("floor") for r in records]
        floor = typical_floor(metric, [value for value in floors if value is not None])
        columns.append(Column(problem, protocol, teacher_name(problem, records), floor))
    return columns


def _block(metric: str, direction: str, columns: Sequence[Column], lines: Sequence[Line]) -> tuple[Sampler, ...]:
    """The samplers of one NFE, best mean position first."""
    table = [[_best(metric, direction, column, line) for column in columns] for line in lines]
    orders = [_order(metric, [cell.row for cell in found if cell is not None]) for found in zip(*table, strict=True)]
    samplers = []
    for line, cells in zip(lines, table, strict=True):
        if any(cells):
            pairs = list(zip(cells, orders, strict=True))
            ranked = [cell and replace(cell, rank=order.ranks.get(cell.row.config_id)) for cell, order in pairs]
            places = [order.places.get(cell.row.config_id) for cell, order in pairs if cell is not None]
            place = mean([p for p in places if p is not None])
            samplers.append((math.inf if place is None else place, Sampler(line, tuple(ranked))))
    return tuple(sampler for _, sampler in sorted(samplers, key=lambda pair: (pair[0], pair[1].line.label)))


def _order(metric: str, rows: Iterable[Row]) -> ColumnOrder:
    """How the rows of one column stand, a configuration that several lines show counted once."""
    distinct = {row.config_id: row for row in rows}
    info = catalog.metric_info(metric)
    valued = [row for row in distinct.values() if row.summary is not None]
    places = sorted(valued, key=lambda row: (*best_first(row, info.direction), row.label))
    return ColumnOrder(ranks(distinct, info), {row.config_id: place for place, row in enumerate(places, 1)})


def _best(metric: str, direction: str, column: Column, line: Line) -> Cell | None:
    """The line's group on this column with the best mean (a trained sampler's line has one)."""
    cells = []
    for member, setting in line.members:
        if member.problem == column.problem:
            row = row_of(metric, column.protocol_id, member)
            seconds = [r["cost"]["draw_seconds_per_1000"] for r in member.done if "draw_seconds_per_1000" in r["cost"]]
            cells.append(Cell(row, None, setting, mean(seconds), 0))
    best = min(cells, key=lambda cell: (*best_first(cell.row, direction), cell.setting), default=None)
    return best and replace(best, among=sum(bool(cell.row.values or cell.row.failures) for cell in cells))
