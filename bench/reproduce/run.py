"""From a table to its cells: plan, run what is missing, add the metrics, compare."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.config import Composer, Config
from bench.errors import UserError
from bench.evaluate import add_metrics, measured
from bench.launch.options import split_options
from bench.plan.cells import misfit, plan_fitting
from bench.plan.expand import Sweep
from bench.registry import entries
from bench.report import published
from bench.reproduce.compare import Compared, Planned, compare
from bench.reproduce.tables import CellSpec, PaperTable
from bench.run import execute, finished
from bench.store import Record, Store
from bench.sweep.lines import Tell, planning
from bench.sweep.pool import Task
from bench.sweep.run import place, run_plan
from targets.base import Target

TIMED = 0.02
"""Share of the iterations that a time is taken over."""

TIMES = "times"
"""Folder in the results folder for the runs made only for their time: beside fitted ones they would mislead."""


@dataclass(frozen=True)
class Result:
    """A table after it was looked at or run."""

    table: PaperTable
    cells: list[Compared]
    budget: float
    failed: bool = False


def reproduce(
    table: PaperTable,
    *,
    seeds: int | None = None,
    budget: float = 1.0,
    overrides: Sequence[str] = (),
    results: Path | str | None = None,
    jobs: int | None = None,
    dry_run: bool = False,
    retry: bool = False,
    only_records: bool = False,
    tell: Tell = print,
    task: Task = execute,
    compose: Composer | None = None,
) -> Result:
    """Run what a table lacks, measure what its records lack, and compare.

    With ``launcher=slurm`` what lacks is submitted and nothing measured, and times are left to this machine: on nodes
    of a cluster they are not of one machine.

    Args:
        table: from conf/paper.
        seeds: of every cell; those that it asks for unless given.
        budget: fraction of the paper's iterations, in (0, 1]; times do not depend on it.
        overrides: of how and where to run (device, threads, compile, launcher, site, ...), not of what.
        results: results folder.
        jobs: processes at once.
        dry_run: say what is to do, and do nothing.
        retry: run again what failed, diverged or ran out of time.
        only_records: neither run nor measure nor say anything.
        tell: receives lines of output.
        task: ``execute``, or a stand-in.
        compose: shared by several tables, which is quicker.

    Raises:
        UserError: a mistake in the table or the arguments.
    """
    where, rest = split_options(overrides)
    there = place(where, jobs)
    if not 0 < budget <= 1:
        raise UserError(f"--budget {budget} is not a fraction of the paper's iterations", "give more than 0, at most 1")
    if seeds is not None and seeds < 1:
        raise UserError(f"--seeds {seeds} asks for no seed", "give at least 1")
    if seeds is not None:
        asked = (cell if cell.timed else replace(cell, seeds=seeds) for cell in table.cells)
        table = replace(table, cells=tuple(asked))
    with planning(dry_run, tell):
        planned = plan_cells(table, budget, rest, results, check=not only_records, compose=compose)
    failed = False
    folders = dict.fromkeys(cell.config.results for cell in planned if cell.config)
    for folder in [] if only_records else folders:
        here = [cell for cell in planned if cell.config and cell.config.results == folder]
        if there.site and here[0].spec.timed:
            tell(f"{table.name}: times are taken on this machine, without launcher=slurm")
            continue
        configs = unique([cell.config for cell in here if cell.config])
        plan = plan_fitting(as_sweep(table, configs, here[0].spec.timed), configs, folder)
        failed |= run_plan(plan, there, dry_run=dry_run, retry=retry, tell=tell, task=task).failed
        if there.site:
            tell("the same command without launcher and site measures and compares what has ended")
        elif not dry_run:
            measure(here, Store(folder), tell)
    planned = [with_records(cell) for cell in planned]
    return Result(table, compare(planned, published.by_id(), budget=budget), budget, failed)


def as_sweep(table: PaperTable, configs: Sequence[Config], timed: bool) -> Sweep:
    """The cells as lines, from which a submission is planned again by those who ask for its status."""
    title = f"{table.name}: {table.title}{', times' if timed else ''}"
    return Sweep(table.name, title, [shlex.join(config.overrides) for config in configs], replace=False)


def plan_cells(
    table: PaperTable,
    budget: float,
    overrides: Sequence[str] = (),
    results: Path | str | None = None,
    *,
    check: bool = True,
    compose: Composer | None = None,
) -> list[Planned]:
    """The configuration of every cell; a cell whose method, target or option does not exist (yet) says so instead.

    Args:
        check: also build the targets, to see whether the methods fit them.
    """
    compose = compose or Composer()
    known: dict[tuple[tuple[str, ...], int, bool], tuple[Config | None, str]] = {}
    targets: dict[str, Target | None] = {}
    cells = []
    for spec in table.cells:
        if spec.absent:
            cells.append(Planned(spec, None, spec.absent))
            continue
        key = spec.overrides, spec.seeds, spec.timed
        if key not in known:
            config, reason = _configured(compose, spec, [*overrides, f"seeds={spec.seeds}"], budget, results)
            if config and check:
                reason = misfit(config, targets)
            known[key] = (None if reason else config, reason)
        cells.append(Planned(spec, *known[key]))
    return cells


def _configured(
    compose: Composer, spec: CellSpec, overrides: list[str], budget: float, results: Path | str | None
) -> tuple[Config | None, str]:
    if not {"method", "target"} <= {text.split("=", 1)[0] for text in spec.overrides}:
        return None, "the table names no method or no target"
    try:
        config = compose([*spec.overrides, *overrides])
    except UserError as problem:
        if _composes(compose, spec.overrides):
            raise  # the mistake is in what was added to the table's own
        return None, "not in the suite: " + str(problem).splitlines()[0]
    config = replace(config, results=str(results or config.results))
    return _timed(config) if spec.timed else _cut(config, budget), ""


def _timed(config: Config) -> Config:
    """The beginning of a fit, of which nothing but the time is kept."""
    nothing = {**config.eval, "metrics": [], "curve_points": 0, "samples": 0}
    return replace(_cut(config, TIMED), eval=nothing, results=str(Path(config.results) / TIMES))


def _cut(config: Config, budget: float) -> Config:
    """The configuration with this share of its iterations, in every phase of the fit."""
    if budget == 1:
        return config
    train = {**config.train, "iterations": max(1, round(config.train["iterations"] * budget))}
    phases = entries("method")[config.method["name"]].obj.phases
    cut = {name: round(config.method[name] * budget) for name in phases if config.method.get(name)}
    texts = [f"train.iterations={train['iterations']}", *(f"method.{name}={value}" for name, value in cut.items())]
    overrides = (*config.overrides, *texts)
    return replace(config, train=train, method={**config.method, **cut}, overrides=overrides)


def _composes(compose: Composer, overrides: Sequence[str]) -> bool:
    try:
        compose(list(overrides))
    except UserError:
        return False
    return True


def unique(configs: Sequence[Config]) -> list[Config]:
    """One of each identity, in the order given: that with the most seeds."""
    found: dict[str, Config] = {}
    for config in configs:
        known = found.setdefault(config.config_id, config)
        if len(config.seeds) > len(known.seeds):
            found[config.config_id] = config
    return list(found.values())


def with_records(cell: Planned) -> Planned:
    """The cell with what is on record for it."""
    if cell.config is None:
        return cell
    records = finished(cell.config, Store(cell.config.results), cell.config.seeds)
    return replace(cell, records=records, reason=cell.reason or ("" if records else "no record"))


def measure(planned: Sequence[Planned], store: Store, tell: Tell) -> None:
    """Add the metrics of the table to its records, one configuration at a time."""
    wanted: dict[str, tuple[Config, list[str]]] = {}
    for cell in planned:
        if cell.config is not None and cell.spec.metric in entries("metric"):
            wanted.setdefault(cell.config.config_id, (cell.config, []))[1].append(cell.spec.metric)
    for config, metrics in wanted.values():
        names = list(dict.fromkeys(metrics))
        records = finished(config, store, config.seeds).values()
        lacking = [record for record in records if _lacks(record, names)]
        _, without = add_metrics(store, lacking, names, device=config.device, tell=tell) if lacking else (0, 0)
        if without:
            tell(
                f"{config.method['name']} x {config.target['name']}: {without} runs lack {', '.join(names)} and their "
                "parameters are not kept here; delete the records and run again to measure it"
            )


def _lacks(record: Record, names: Sequence[str]) -> bool:
    """Whether a metric has no value by its protocol of today; one that did not apply is asked again."""
    return record["status"] == "done" and any(not measured(record, name) for name in names)
