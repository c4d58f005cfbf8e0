"""Our records beside the printed numbers, cell by cell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev
from typing import Any

from bench import stats
from bench.config import Config
from bench.metrics.evaluate import build
from bench.registry import entries
from bench.report.table import typical_floor
from bench.report.values import Collected, collect
from bench.reproduce.tables import CellSpec
from bench.reproduce.verdict import DIFFERENT, JUDGED, Printed, Verdict, difference, judge, printed, tolerance
from bench.store import Record


@dataclass(frozen=True)
class Planned:
    """A cell, the configuration behind it or why there is none, and the records it has by seed."""

    spec: CellSpec
    config: Config | None
    reason: str = ""
    records: Mapping[int, Record] = field(default_factory=dict)


@dataclass(frozen=True)
class Compared:
    """A cell as it is printed.

    Attributes:
        values: seed -> value.
        wanted: seeds asked for.
        failures: number of seeds by how they ended without a value.
        reason: why there are no values, or fewer than there are records.
        remark: on the verdict.
        differs: whether the cell agrees although the means differ by more than chance, as far as the paper lets tell.
        full: whether the budget is the paper's.
    """

    spec: CellSpec
    published: Printed | None
    row: Mapping[str, str] | None
    values: Mapping[int, float]
    wanted: int
    failures: Mapping[str, int]
    floor: float | None
    reason: str
    remark: str
    differs: bool
    verdict: Verdict
    config_id: str
    full: bool

    @property
    def summary(self) -> stats.Summary | None:
        return stats.summarise(list(self.values.values())) if self.values else None


def compare(planned: Sequence[Planned], numbers: Mapping[str, dict[str, str]], *, budget: float) -> list[Compared]:
    """The cells of a table with their verdicts.

    Args:
        planned: every cell, with its records.
        numbers: rows of published.csv by id.
        budget: fraction of the paper's iterations; a verdict is given at 1 only.
    """
    found = []
    for cell in planned:
        beside = (cell.spec.relative_to or cell.spec.excess_over, cell.spec.column)
        reference = next((p for p in planned if (p.spec.row, p.spec.column) == beside), None)
        found.append(_compared(cell, reference, numbers, budget))
    return found


def _compared(
    cell: Planned, reference: Planned | None, numbers: Mapping[str, dict[str, str]], budget: float
) -> Compared:
    spec, row = cell.spec, numbers.get(cell.spec.published or "")
    number, truth = (printed(text) if text else None for text in (row, _printed_row(reference, numbers)))
    if spec.timed:
        number = _relative(number, truth, spec, reference)
    found = _collected(cell, reference)
    basis = _basis(spec, number, truth, found)
    verdict = judge(
        basis.printed,
        basis.ours,
        direction=_direction(spec.metric)[0],
        floor=basis.floor,
        diverged=found.failures["diverged"] + found.failures["not finite"],
        full=budget == 1,
        doubt=bool(spec.doubt),
        meant=not (spec.switch or spec.timed),
    )
    apart = _apart(basis) if verdict is Verdict.AGREES else ""
    return Compared(
        spec=spec,
        published=number,
        row=row,
        values=found.values,
        wanted=spec.seeds,
        failures=dict(found.failures),
        floor=typical_floor(spec.metric, list(found.floors.values())),
        reason="; ".join(found.reasons),
        remark="; ".join(filter(None, [basis.remark, apart])),
        differs=bool(apart),
        verdict=verdict,
        config_id=cell.config.config_id if cell.config else "",
        full=budget == 1,
    )


@dataclass(frozen=True)
class _Basis:
    """What a verdict rests on: a printed number, ours by seed, and the floor if that is an error of ours."""

    printed: Printed | None
    ours: list[float]
    floor: float | None
    remark: str = ""


def _basis(spec: CellSpec, number: Printed | None, truth: Printed | None, found: Collected) -> _Basis:
    """Both numbers as they are, or, in a table with a row of the paper's own truth, what is above it."""
    values, floors = found.values, found.floors
    if spec.excess_over and number and truth and values and floors.keys() >= values.keys():
        above = replace(number, value=number.value - truth.value, rounding=number.rounding + truth.rounding)
        ours = [values[seed] - floors[seed] for seed in values]
        remark = f"above {spec.excess_over}: printed {above.value:.3g}, ours {fmean(ours):.3g}"
        return _Basis(above, ours, None, remark)
    noise = floors and _direction(spec.metric)[1]
    return _Basis(number, list(values.values()), typical_floor(spec.metric, list(floors.values())) if noise else None)


def _printed_row(planned: Planned | None, numbers: Mapping[str, dict[str, str]]) -> dict[str, str] | None:
    return numbers.get(planned.spec.published or "") if planned else None


def _collected(cell: Planned, reference: Planned | None) -> Collected:
    """Values, floors, failures and reasons of a cell."""
    metric, found = cell.spec.metric, Collected()
    if cell.spec.timed:
        found.values, why = relative_times(cell, reference)
    elif metric not in entries("metric"):
        why = f"the metric {metric} is not in the suite"
    else:
        today, why = build(metric, {}), ""

        def refused(record: Record, protocol: str) -> str | None:
            same = today.measured(record["protocols"][protocol])
            return None if same else f"measured with another protocol of {metric}"

        found = collect(cell.records, metric, refused, f"{metric} is not measured yet")
    found.reasons = list(dict.fromkeys([*filter(None, [cell.reason, why]), *found.reasons]))
    return found


def _direction(metric: str) -> tuple[str, bool]:
    """Which values are better, and whether the floor is an error of the value."""
    if metric not in entries("metric"):
        return "lower", True
    declared = entries("metric")[metric].obj
    # where higher is better the floor is what a perfect q reaches (a p-value, say), not an error
    return declared.direction, declared.direction == "lower" and declared.floor_is_noise


def _apart(basis: _Basis) -> str:
    """In what sense the means of two that agree differ by more than chance; empty if they do not, or cannot be told."""
    judged, ours, floor = basis.printed, basis.ours, basis.floor
    assert judged is not None  # else they would not agree
    p = difference(judged, ours)
    if p is not None and p >= DIFFERENT or len(ours) < 2:
        return ""
    if tolerance(judged, ours, None) < abs(fmean(ours) - judged.value):
        carries = f"the noise floor, {floor:.3g}"
    else:
        carries = "our spread" if stdev(ours) > (judged.sd or 0) else "the printed spread"
    if p is not None:
        return f"by {carries}; the means differ (Welch, p = {p:.1g})"
    low, high = stats.interval(ours)
    if low - judged.rounding <= judged.value <= high + judged.rounding:
        return ""
    unknown = "unknown spread" if judged.sd is None else "an unknown number of runs"
    return f"by {carries}; the printed number, of {unknown}, is outside our 95 % interval"


def relative_times(cell: Planned, reference: Planned | None) -> tuple[dict[int, float], str]:
    """Seconds per iteration and seed over the mean of the reference row, and why there are none.

    Times are compared only if both were taken on the same device, with as many threads and seeds in one program; on
    a CPU those of the processor, since whatever else the machine did lengthens the others.
    """
    mine = {seed: paced for seed, record in cell.records.items() if (paced := _pace(record))}
    if not mine:
        return {}, ""
    theirs = [paced for record in (reference.records.values() if reference else ()) if (paced := _pace(record))]
    alike = {seed: pace for seed, pace in mine.items() if theirs and pace[1] == theirs[0][1]}
    unit = [pace for pace, where in theirs if where == theirs[0][1]]
    if not alike:
        return {}, "no record of the reference row from the same machine and settings"
    return {seed: pace / fmean(unit) for seed, (pace, _) in alike.items()}, ""


def _pace(record: Record) -> tuple[float, tuple[Any, ...]] | None:
    """Seconds per seed-iteration, and the circumstances under which it may be compared."""
    cost, env = record.get("cost") or {}, record.get("env") or {}
    seconds = cost.get("cpu_seconds" if env.get("device") == "cpu" else "seconds")
    if record["status"] != "done" or not seconds or not cost.get("iterations"):
        return None
    sharing = cost.get("seeds_sharing") or 1
    where = (env.get("device_name"), env.get("threads"), env.get("compile"), sharing)
    return seconds / sharing / cost["iterations"], where


def _relative(
    number: Printed | None, unit: Printed | None, spec: CellSpec, reference: Planned | None
) -> Printed | None:
    """A printed time of an iteration over that of the reference row; not comparable with ours: the machines differ."""
    if number is None or unit is None or reference is None:
        return None
    one = unit.value / reference.spec.published_iterations * spec.published_iterations
    return Printed(number.value / one, number.rounding / one, None, False)


def progress(cells: Sequence[Compared]) -> dict[str, int]:
    """Counts for the summary: cells that the suite runs, those with values, and of the comparable ones the judged."""
    able = [c for c in cells if not (c.spec.absent or c.spec.doubt or c.spec.switch)]
    comparable = [c for c in able if c.published is not None and c.published.comparable]
    verdicts = Counter(c.verdict for c in comparable)
    return {
        "cells": sum(not c.spec.absent for c in cells),
        "absent": sum(bool(c.spec.absent) for c in cells),
        "measured": sum(bool(c.values) for c in cells),
        "comparable": len(comparable),
        "judged": sum(verdicts[verdict] for verdict in JUDGED),
        "agree": verdicts[Verdict.AGREES],
        "agree_but_differ": sum(c.differs for c in comparable if c.verdict is Verdict.AGREES),
        "better": verdicts[Verdict.BETTER],
        "worse": verdicts[Verdict.WORSE],
    }
