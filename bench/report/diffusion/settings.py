"""What the configuration of a few-step sampler says: its cost, its grid, its teacher, whether it was trained."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bench.report import catalog
from bench.report.groups import Problem, Record


def is_untrained(record: Record) -> bool:
    """Whether a sampler that is trained was left as it starts: one iteration, at most a first step."""
    return catalog.is_trained(record["method"]) and record["config"].get("train", {}).get("iterations") == 1


def grid_of(record: Record) -> tuple[Any, ...] | None:
    """What fixes the time grid; None for a method without one."""
    config = record["config"]["method"]
    if "grid" not in config:
        return None
    name = config["grid"]
    more = {"explicit": "times", "power": "power"}.get(name)
    value = config.get(more) if more else None
    return name, tuple(value) if isinstance(value, list) else value, config.get("schedule")


def teacher_name(problem: Problem, records: Iterable[Record]) -> str:
    """Which teacher a problem has: the one its configuration names, or the exact scores of a known density.

    Fitted again on another machine, a teacher may have other weights; where records are of several, all are named.
    """
    named = problem.config.get("teacher") or catalog.default_teacher(problem.name)
    if not named:
        return "exact" if catalog.has_exact_teacher(problem.name) else "unnamed"
    operations = ((record.get("env") or {}).get("operations") or {} for record in records)
    labels = (str(found.get("teacher", "")).rpartition(" sha256 ") for found in operations)
    fits = sorted({weights[:6] for _, found, weights in labels if found})
    return f"{named} (fits {', '.join(fits)})" if len(fits) > 1 else str(named)
