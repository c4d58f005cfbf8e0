"""What the configuration of a few-step sampler says: its cost, its grid, its teacher, whether it was trained."""

from __future__ import annotations

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


def teacher_name(problem: Problem) -> str:
    """Which teacher a problem has: the one its configuration names, or the exact scores of a known density."""
    named = problem.config.get("teacher") or catalog.default_teacher(problem.name)
    return str(named) if named else "exact" if catalog.has_exact_teacher(problem.name) else "unnamed"
