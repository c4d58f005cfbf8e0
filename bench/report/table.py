"""The one table object behind every renderer: boards of rows, one board per problem, metric and protocol."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any

from bench import stats
from bench.report import catalog, published
from bench.report.groups import Group, Problem, Record, differing, flatten, group, nfe_of, ordered
from bench.report.values import collect


@dataclass(frozen=True)
class About:
    """What a sweep says of its tables and no record does.

    Attributes:
        notes: how to read them; they stand first.
        left_out: why pairs without a run have none, by patterns ``method/target``.
    """

    notes: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)


NOTHING = About()

NOT_RUN = "not run"
"""Why a row is empty where nobody gives another reason."""


@dataclass(frozen=True)
class Row:
    """One configuration of one method on one board; ``summary`` is None where there is no value, and why is in
    ``reason``."""

    label: str
    method: str
    config_id: str
    summary: stats.Summary | None
    values: dict[int, float]
    """Seed -> value."""
    rank: int | None
    total: int
    failures: dict[str, int]
    reason: str = ""
    floor: float | None = None
    seconds: float | None = None
    evaluations: float | None = None
    published: tuple[published.Published, ...] = ()

    @property
    def lost(self) -> bool:
        """Whether more than half of the seeds that ended have no value."""
        return sum(self.failures.values()) > len(self.values)

    @property
    def rankable(self) -> bool:
        """Whether it can have a rank: one seed says nothing of its noise, the few left of many say little."""
        return len(self.values) > 1 and not self.lost


@dataclass(frozen=True)
class Board:
    """Values of one metric under ONE protocol on one problem; rows best first, rows without a value last."""

    problem: Problem
    metric: str
    direction: str
    unit: str
    protocol_id: str
    protocol: dict[str, Any] = field(compare=False)
    distinct: dict[str, Any] = field(compare=False)
    """What sets this protocol apart from the others that measured this metric on this problem; empty if alone."""
    rows: tuple[Row, ...]

    @property
    def present(self) -> tuple[Row, ...]:
        """The rows of methods that have runs here."""
        return tuple(row for row in self.rows if row.config_id)

    @property
    def absent(self) -> tuple[str, ...]:
        """Methods of other problems that have no run here, a line per reason: ``not run: iaf, maf``."""
        by_reason: dict[str, list[str]] = {}
        for row in self.rows:
            if not row.config_id:
                by_reason.setdefault(row.reason, []).append(row.label)
        return tuple(f"{reason}: {', '.join(methods)}" for reason, methods in sorted(by_reason.items()))

    @property
    def title(self) -> str:
        return f"{self.metric} [protocol {self.protocol_id}]" if self.distinct else self.metric

    @property
    def has_floor(self) -> bool:
        return any(row.floor is not None for row in self.rows)

    @property
    def floor_kind(self) -> str:
        """What the floor is: an error of the value, or what a perfect q reads (``Metric.floor_is_noise``)."""
        return "error" if catalog.metric_info(self.metric).floor_is_noise else "perfect q"

    @property
    def has_published(self) -> bool:
        return any(row.published for row in self.rows)


@dataclass(frozen=True)
class Section:
    """All boards of one problem, the headline's first."""

    problem: Problem
    boards: tuple[Board, ...]
    groups: tuple[Group, ...] = field(compare=False)


@dataclass(frozen=True)
class Tables:
    """Everything a renderer needs."""

    sections: tuple[Section, ...]
    records: tuple[Record, ...] = field(compare=False)
    few_step: int = 0
    """Runs of few-step samplers left to their own report, where they stand by network evaluations."""
    heading: tuple[str, ...] = ()
    """How to read them, before everything else."""

    @property
    def notes(self) -> list[tuple[str, str]]:
        """What a reader of the tables should know: name and text."""
        few_step = ("few-step samplers", f"{self.few_step} runs, see `sivibench report diffusion`")
        early = sum("curve_seconds" not in (record.get("cost") or {}) for record in self.records)
        times = "on whatever machine a run was made and whatever else ran there: compare with `sivibench speed`"
        if early:
            times += f"; training alone, but with the evaluation of curve points in {early} earlier records"
        return [few_step] * (self.few_step > 0) + [("time/seed", times)]


def build(records: Sequence[Record], about: About = NOTHING) -> Tables:
    """The tables of a list of run records, independent of their order.

    Samplers with a number of network evaluations are not ranked beside the others: one at NFE 100 says nothing
    about one at NFE 2.  Where there are only such samplers they are shown.

    Args:
        about: of the sweep they belong to.

    Raises:
        UserError: two different records claim the same run.
    """
    kept = [record for record in records if nfe_of([record]) is None] or list(records)
    groups = group(kept)
    methods = sorted({g.method for g in groups})
    problems = sorted({g.problem for g in groups}, key=lambda p: p.label)
    sections = []
    for problem in problems:
        members = tuple(g for g in groups if g.problem == problem)
        absent = [_absent(m, problem, about.left_out) for m in methods if m not in {g.method for g in members}]
        boards = tuple(board for metric in _metrics(problem, members) for board in _boards(metric, members, absent))
        sections.append(Section(problem, boards, members))
    return Tables(tuple(sections), tuple(ordered(kept)), len(records) - len(kept), about.notes)


def _metrics(problem: Problem, groups: tuple[Group, ...]) -> list[str]:
    """Metrics that occur, in the order the target declares, then as recorded; those without any value last."""
    seen: dict[str, None] = {}
    valued: set[str] = set()
    for record in (r for g in groups for r in g.records):
        valued |= set(record.get("metrics") or ())
        seen |= dict.fromkeys(record.get("metrics") or ()) | dict.fromkeys(record.get("skipped_metrics") or ())
    declared = catalog.target_metrics(problem.name)
    measured = [m for m in declared if m in seen]
    # where every run failed the headline is shown all the same: that is a result
    found = sorted(dict.fromkeys([*measured, *seen]), key=lambda name: name not in valued)
    return found or list(declared[:1] or ("no metric",))


def _boards(metric: str, groups: tuple[Group, ...], absent: list[Row]) -> list[Board]:
    protocols: dict[str, dict[str, Any]] = {}
    for record in (r for g in groups for r in g.records):
        if metric in (record.get("metrics") or {}):
            protocol_id = record["metrics"][metric]["protocol"]
            protocols.setdefault(protocol_id, (record.get("protocols") or {}).get(protocol_id, {}))
    ids = sorted(protocols) or [""]
    apart = dict(zip(ids, differing([flatten(protocols.get(i, {})) for i in ids]), strict=True))
    info = catalog.metric_info(metric)
    problem = groups[0].problem
    boards = []
    for protocol_id in ids:
        raw = [*(row_of(metric, protocol_id, g) for g in groups), *absent]
        found = ranks({r.label: r for r in raw}, info)
        rows = [Row(**{**vars(r), "rank": found.get(r.label)}) for r in raw]
        rows.sort(key=lambda r: (*best_first(r, info.direction), r.label))
        distinct = (apart[protocol_id] or {"protocol": protocol_id}) if len(ids) > 1 else {}
        protocol = protocols.get(protocol_id, {})
        boards.append(Board(problem, metric, info.direction, info.unit, protocol_id, protocol, distinct, tuple(rows)))
    return boards


def best_first(row: Row, direction: str) -> tuple[bool, bool, float]:
    """Sorts rows by mean; those of which little survived come after, those without a value last."""
    sign = -1 if direction == "higher" else 1
    return row.summary is None, row.lost, sign * row.summary.mean if row.summary else 0.0


def ranks(rows: Mapping[str, Row], info: catalog.MetricInfo) -> dict[str, int]:
    """Ranks of one column's rows, by name (``stats.RANK_RULE``); empty where the metric or a lone row has none."""
    if not info.ranked or sum(row.total > 0 for row in rows.values()) < 2:  # a row alone has won nothing
        return {}
    blur = {name: abs(r.floor) / 2 for name, r in rows.items() if r.floor is not None and info.floor_is_noise}
    return stats.ranks({name: r.values for name, r in rows.items() if r.rankable}, info.direction, blur)


def row_of(metric: str, protocol_id: str, member: Group) -> Row:
    """One configuration's values of a metric under one protocol, not ranked yet."""
    found = collect(
        {record["seed"]: record for record in member.records},
        metric,
        lambda record, protocol: None if protocol == protocol_id else f"measured with protocol {protocol}",
        "not measured",
    )
    costs = [r["cost"] for r in member.done if r.get("cost")]
    registered = catalog.is_registered("target", member.problem.name)
    comparable = not (registered and catalog.changed("target", member.problem.config))
    return Row(
        label=member.label,
        method=member.method,
        config_id=member.config_id,
        summary=stats.summarise(list(found.values.values())) if found.values else None,
        values=found.values,
        rank=None,
        total=len(member.records),
        failures=dict(sorted(found.failures.items())),
        reason="; ".join(found.reasons),
        floor=typical_floor(metric, list(found.floors.values())),
        seconds=mean([c["seconds"] / max(c.get("seeds_sharing") or 1, 1) for c in costs if c.get("seconds")]),
        evaluations=mean([c["target_evaluations"] for c in costs if c.get("target_evaluations") is not None]),
        published=published.find(member.method, member.problem.name, metric) if comparable else (),
    )


def _absent(method: str, problem: Problem, left_out: Mapping[str, str]) -> Row:
    told = (why for pattern, why in left_out.items() if fnmatch(f"{method}/{problem.name}", pattern))
    reason = catalog.unmet_needs(method, problem.name) or next(told, NOT_RUN)
    return Row(method, method, "", None, {}, None, 0, {}, reason)


def typical_floor(metric: str, floors: Sequence[float]) -> float | None:
    """The mean; of errors with signs the root mean square, as the signs of noise mean nothing."""
    if catalog.metric_info(metric).floor_is_noise and any(floor < 0 for floor in floors):
        return math.sqrt(math.fsum(floor**2 for floor in floors) / len(floors))
    return mean(floors)


def mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
