"""A sweep from plan to report, with one line per finished cell."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.errors import UserError
from bench.run import execute, finished
from bench.store import Record
from bench.sweep.plan import Cell, Plan, longest_first, make_plan
from bench.sweep.pool import Result, Task, run_cells

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """What a sweep did."""

    plan: Plan
    results: list[Result]
    report: Path | None = None

    @property
    def failed(self) -> bool:
        """Whether anything failed, now or in an earlier call whose record was kept."""
        ran = {result.cell.config.config_id for result in self.results}
        earlier = [cell for cell in self.plan.cells if cell.config.config_id not in ran]
        kept = (record["status"] for cell in earlier for record in cell.records.values())
        return any(result.failed for result in self.results) or any(s in ("failed", "timeout") for s in kept)

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "sweep": self.plan.sweep.name,
            "results": str(self.plan.store.root),
            "cells": [
                {"method": cell.method, "target": cell.target, "config_id": cell.config.config_id, **cell.counts()}
                for cell in self.plan.cells
            ],
            "ran": [
                {
                    "method": result.cell.method,
                    "target": result.cell.target,
                    "config_id": result.cell.config.config_id,
                    "statuses": {str(seed): status for seed, status in result.statuses.items()},
                    "seconds": round(result.seconds, 3),
                    "error": result.error,
                }
                for result in self.results
            ],
            "skipped": [{"method": m, "target": t, "reason": reason} for m, t, reason in self.plan.skipped],
            "report": str(self.report) if self.report else None,
            "failed": self.failed,
        }


def run_sweep(
    name: str,
    overrides: Sequence[str] = (),
    *,
    jobs: int | None = None,
    dry_run: bool = False,
    retry: bool = False,
    results: Path | str | None = None,
    tell: Tell = print,
    task: Task = execute,
) -> Outcome:
    """Run what is missing of a sweep.

    Args:
        name: a sweep of conf/sweep or the path of a YAML file.
        overrides: win over those of the file.
        jobs: processes at once; the number of CPUs, or 1 on a GPU, unless given.
        dry_run: only say what is done and what is to do.
        retry: run again what failed, diverged or ran out of time.
        results: results folder, instead of the file's.
        tell: receives the lines of output.
        task: ``execute``, or a stand-in.

    Raises:
        UserError: a mistake in the sweep, or the results folder cannot be written; nothing has run then.
        KeyboardInterrupt: passed on after the children have stopped.
    """
    require_jobs(jobs)
    plan = make_plan(name, overrides, results)
    return run_plan(plan, jobs=jobs, dry_run=dry_run, retry=retry, tell=tell, task=task)


def require_jobs(jobs: int | None) -> None:
    """Refuse a number of processes below one.

    Raises:
        UserError: it is.
    """
    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs {jobs} is too small", "give at least 1")


def run_plan(
    plan: Plan,
    *,
    jobs: int | None = None,
    dry_run: bool = False,
    retry: bool = False,
    tell: Tell = print,
    task: Task = execute,
) -> Outcome:
    """Run what is missing of a plan; arguments and errors as ``run_sweep``."""
    todo = [cell for cell in plan.cells if cell.todo(retry=retry)]
    _announce(plan, todo, retry, tell)
    if dry_run:
        _table(plan, tell)
        return Outcome(plan, [])
    done: list[Result] = []
    if todo:
        plan.store.writable()
        jobs = jobs or default_jobs(todo[0])
        done = _run(longest_first(todo, plan.store), jobs, retry, plan, tell, task)
    report = _report(plan, tell) if plan.sweep.report else None
    return Outcome(plan, done, report)


def default_jobs(cell: Cell) -> int:
    """One process on a GPU, else as many as there are CPUs for their threads."""
    if cell.config.device != "cpu" and torch.cuda.is_available():
        return 1
    return max(1, len(os.sched_getaffinity(0)) // cell.config.threads)


def _run(cells: list[Cell], jobs: int, retry: bool, plan: Plan, tell: Tell, task: Task) -> list[Result]:
    start, done = time.monotonic(), list[Result]()
    width = len(str(len(cells)))
    children = run_cells(cells, jobs=jobs, retry=retry, logs=plan.store.logs, task=task)
    try:
        for result in children:
            done.append(result)
            counts = Counter(result.statuses.values())
            states = ", ".join(f"{number} {status}" for status, number in sorted(counts.items()))
            left = len(cells) - len(done)
            tell(
                f"[{len(done):{width}}/{len(cells)}] {result.cell.method} x {result.cell.target}: "
                f"{states or 'failed'} in {result.seconds:.1f} s "
                f"(elapsed {_clock(time.monotonic() - start)}, {left} left)"
            )
            if result.error:
                tell("    " + result.error.replace("\n", "\n    "))
    except KeyboardInterrupt:
        children.close()
        tell(f"interrupted: {len(done)} of {len(cells)} cells finished; repeat the command to continue")
        raise
    return done


def _announce(plan: Plan, todo: list[Cell], retry: bool, tell: Tell) -> None:
    runs, wanted = sum(len(cell.config.seeds) for cell in plan.cells), sum(len(c.todo(retry=retry)) for c in todo)
    tell(f"{plan.sweep.title}: {len(plan.cells)} cells, {runs} runs; {runs - wanted} finished, {wanted} to do")
    for method, target, reason in plan.skipped:
        tell(f"skipped {method} x {target}: {reason}")


def _table(plan: Plan, tell: Tell) -> None:
    for cell in plan.cells:
        counts = ", ".join(f"{number} {status}" for status, number in cell.counts().items() if number)
        tell(f"  {cell.config.config_id}  {cell.method} x {cell.target}: {counts}")


def _report(plan: Plan, tell: Tell) -> Path:
    from bench.report import write_report  # imported late: plotting libraries are slow to load

    records: list[Record] = []
    for cell in plan.cells:
        records += finished(cell.config, plan.store, cell.config.seeds).values()
    folder = plan.store.root if plan.sweep.results else plan.store.root / "reports" / plan.sweep.name
    page = write_report(records, folder, plan.sweep.title)["html"]
    tell(f"report: {page}")
    return page


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"
