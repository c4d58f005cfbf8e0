"""A sweep from plan to report, with one line per finished cell."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from bench.cost import fit_time
from bench.errors import UserError
from bench.fit.interrupt import Interrupted
from bench.launch.manifest import Manifest
from bench.launch.options import compose_options, meaningless, split_options
from bench.launch.site import Site, load_site
from bench.plan.cells import Cell, Plan, longest_first, make_plan, refresh
from bench.plan.expand import Sweep
from bench.plan.pace import pace
from bench.run import Retry, execute, finished
from bench.status import FAILED
from bench.store import Record
from bench.sweep.lines import Tell, announce, clock, cost, planning, table
from bench.sweep.pool import Result, Task, run_cells, run_here
from bench.sweep.slurm import submit_sweep

LOCAL: dict[str, Any] = {"name": "local", "site": None, "parallel": None, "seeds": None}
"""How a sweep runs unless it is told."""


@dataclass(frozen=True)
class Place:
    """Where runs are fitted: this machine, or a cluster that they are submitted to.

    Attributes:
        options: from ``bench.launch.options.compose_options``.
        site: the cluster; None: here.
        jobs: processes at once here.
    """

    options: dict[str, Any] = field(default_factory=lambda: LOCAL)
    site: Site | None = None
    jobs: int | None = None


def place(where: Sequence[str], jobs: int | None = None) -> Place:
    """What overrides like ``launcher=slurm site=NAME`` say.

    Args:
        where: overrides that say where to run, from ``split_options``.
        jobs: processes at once with launcher=local; the number of CPUs, or 1 on a GPU, unless given.

    Raises:
        UserError: as ``compose_options`` and ``load_site``, or the launcher has no use for ``jobs``.
    """
    require_jobs(jobs)
    options = compose_options(where) if where else LOCAL
    if jobs is not None and options["name"] != "local":
        remedy = "launcher.parallel=N limits the jobs at once" if options["name"] == "slurm" else "leave it out"
        raise meaningless(f"--jobs {jobs}", options["name"], remedy)
    return Place(options, load_site(options["site"]) if options["name"] == "slurm" else None, jobs)


@dataclass(frozen=True)
class Outcome:
    """What a sweep did."""

    plan: Plan
    results: list[Result]
    report: Path | None = None
    submitted: Manifest | None = None

    @property
    def failed(self) -> bool:
        """Whether anything failed, now or in an earlier call whose record was kept; a submission's end is not known."""
        if self.submitted is not None:
            return False
        ran = {result.cell.config.config_id for result in self.results}
        earlier = [cell for cell in self.plan.cells if cell.config.config_id not in ran]
        kept = (record["status"] for cell in earlier for record in cell.records.values())
        return any(result.failed for result in self.results) or any(status in FAILED for status in kept)

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
            "jobs": list(self.submitted.jobs) if self.submitted else [],
            "failed": self.failed,
        }


def run_sweep(
    name: str | Sweep,
    overrides: Sequence[str] = (),
    *,
    jobs: int | None = None,
    dry_run: bool = False,
    retry: Retry = False,
    results: Path | str | None = None,
    tell: Tell = print,
    task: Task = execute,
) -> Outcome:
    """Run what is missing of a sweep.

    Args:
        name: a sweep of conf/sweep, the path of a YAML file, or a sweep itself.
        overrides: win over those of the file; ``launcher=...`` and ``site=...`` among them say where to run.
        jobs: processes at once with launcher=local; the number of CPUs, or 1 on a GPU, unless given.
        dry_run: only say what is done and what is to do.
        retry: run again what failed, diverged or ran out of time, or only some of these.
        results: results folder, instead of the file's.
        tell: receives the lines of output.
        task: ``execute``, or a stand-in.

    Raises:
        UserError: a mistake in the sweep, or the results folder cannot be written; nothing has run then.
        KeyboardInterrupt: passed on after the children have stopped.
    """
    where, rest = split_options(overrides)
    there = place(where, jobs)
    with planning(dry_run, tell):
        plan = make_plan(name, rest, results)
    return run_plan(plan, there, rest, dry_run=dry_run, retry=retry, tell=tell, task=task)


def require_jobs(jobs: int | None) -> None:
    """Refuse a number of processes below one.

    Raises:
        UserError: it is.
    """
    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs {jobs} is too small", "give at least 1")


def run_plan(
    plan: Plan,
    there: Place,
    overrides: Sequence[str] = (),
    *,
    dry_run: bool = False,
    retry: Retry = False,
    tell: Tell = print,
    task: Task = execute,
) -> Outcome:
    """Run what is missing of a plan, or submit it; other arguments and errors as ``run_sweep``.

    Args:
        plan: from ``make_plan`` or ``plan_fitting``.
        there: where, from ``place``.
        overrides: what the plan's sweep was expanded with, besides its lines.
    """
    if there.site is not None:
        manifest = submit_sweep(plan, overrides, there.site, there.options, dry_run=dry_run, retry=retry, tell=tell)
        return Outcome(plan, [], submitted=manifest)
    todo = [cell for cell in plan.cells if cell.todo(retry=retry)]
    announce(plan, todo, retry, tell)
    if dry_run:
        cost(todo, plan.store, tell)
        table(plan, tell)
        return Outcome(plan, [])
    done: list[Result] = []
    if todo:
        plan.store.writable()
        options = there.options
        jobs = 0 if options["name"] == "debug" else there.jobs or options["parallel"] or default_jobs(todo[0])
        batches = split_seeds(longest_first(todo, pace(plan.store)), options["seeds"])
        done = _run([batch for batch in batches if batch.todo(retry=retry)], jobs, retry, plan, tell, task)
    report = _report(plan, tell) if plan.sweep.report else None
    return Outcome(refresh(plan), done, report)


def default_jobs(cell: Cell) -> int:
    """One process on a GPU, else as many as there are CPUs for their threads."""
    if cell.config.device != "cpu" and torch.cuda.is_available():
        return 1
    return max(1, len(os.sched_getaffinity(0)) // cell.config.threads)


def _run(cells: list[Cell], jobs: int, retry: Retry, plan: Plan, tell: Tell, task: Task) -> list[Result]:
    start, done = time.monotonic(), list[Result]()
    width = len(str(len(cells)))
    children = (
        run_cells(cells, jobs=jobs, retry=retry, logs=plan.store.logs, task=task)
        if jobs
        else run_here(cells, retry=retry, task=task)
    )
    try:
        for result in children:
            done.append(result)
            counts = Counter(result.statuses.values())
            states = ", ".join(f"{number} {status}" for status, number in sorted(counts.items()))
            left, of_fit = len(cells) - len(done), fit_time(result.cost)
            tell(
                f"[{len(done):{width}}/{len(cells)}] {result.cell.method} x {result.cell.target}: "
                f"{states or 'failed'} in {result.seconds:.1f} s "
                f"({f'fit {of_fit}; ' if of_fit else ''}elapsed {clock(time.monotonic() - start)}, {left} left)"
            )
            if result.error:
                tell("    " + result.error.replace("\n", "\n    "))
    except (Interrupted, KeyboardInterrupt):
        children.close()
        tell(f"interrupted: {len(done)} of {len(cells)} cells finished; repeat the command to continue")
        raise
    return done


def split_seeds(cells: list[Cell], limit: int | None) -> list[Cell]:
    """Cells of at most ``limit`` seeds each, or of those that are fitted together."""
    return [
        replace(cell, config=replace(cell.config, seeds=seeds))
        for cell in cells
        for seeds in cell.config.batches(cell.config.seeds, limit)
    ]


def _report(plan: Plan, tell: Tell) -> Path:
    from bench.report import write_report  # imported late: plotting libraries are slow to load
    from bench.report.table import About

    records: list[Record] = []
    for cell in plan.cells:
        records += finished(cell.config, plan.store, cell.config.seeds).values()
    folder = plan.store.root if plan.sweep.results else plan.store.root / "reports" / plan.sweep.name
    page = write_report(records, folder, plan.sweep.title, About(tuple(plan.sweep.notes), plan.sweep.exclude))["html"]
    tell(f"report: {page}")
    return page
