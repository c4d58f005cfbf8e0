"""A sweep on a cluster: what is neither finished nor in the queue is submitted, and nobody waits for it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from bench import claims
from bench.errors import UserError
from bench.launch.estimate import describe_cost
from bench.launch.group import make_groups, require_work
from bench.launch.manifest import Manifest, manifests
from bench.launch.queue import silence
from bench.launch.site import Site
from bench.launch.state import STATES, RunState, Situation, seed_span, situation
from bench.launch.submit import submit
from bench.plan.cells import Cell, Plan, longest_first
from bench.plan.pace import pace
from bench.run import Retry, finished
from bench.store import Store


def submit_sweep(
    plan: Plan,
    overrides: Sequence[str],
    site: Site,
    options: dict[str, Any],
    *,
    dry_run: bool,
    retry: Retry,
    tell: Callable[[str], None],
) -> Manifest | None:
    """Submit what is left of a sweep.

    Args:
        plan: the sweep.
        overrides: those of its command line that say what to run.
        site: the cluster.
        options: how to run there.
        dry_run: only say what would be submitted.
        retry: submit again what failed, diverged or timed out, or only some of these.
        tell: hears what happens.

    Returns:
        The submission; None if there was nothing to submit.

    Raises:
        UserError: as ``bench.launch.submit.submit``, or somebody else is submitting from this results folder.
    """
    with nullcontext() if dry_run else _alone(plan.store):
        now = join(plan)
        todo = _todo(plan, now, retry, tell)
        if not todo:
            tell("submitted 0 jobs" if now.queue.reached else "SLURM does not answer: what was submitted may still run")
            return None
        if not (now.queue.reached or dry_run):
            raise silence()
        paces = pace(plan.store)
        left = [cell for cell in plan.cells if cell.config.config_id in todo]
        groups = make_groups(longest_first(left, paces), todo, options["seeds"])
        jobs = -(-len(groups) // options["pack"])
        arrays = -(-jobs // site.max_array)
        side = site.tasks(options["tasks_per_gpu"]) * site.nodes
        require_work(groups, options["pack"], side)
        cost = describe_cost(groups, paces, gpus=site.gpus * site.nodes, side_by_side=side)
        tell(f"{len(groups)} batched runs in {jobs} jobs, {arrays} array{'s' * (arrays > 1)}; {cost}")
        if dry_run:
            for group in groups:
                tell(f"  {group.config_id}  {group.config.method['name']} x {group.config.target['name']}: "
                     f"seeds {seed_span(group.config.seeds)}")  # fmt: skip
            return None
        manifest = submit(
            groups, sweep=plan.sweep, overrides=overrides, store=plan.store, site=site, options=options, tell=tell
        )
    usual = plan.sweep.results or os.environ.get("SIVIBENCH_RESULTS") or "results"
    where = "" if Path(usual) == plan.store.root else f" --results {plan.store.root}"
    tell(f"`sivibench status {plan.sweep.name}{where}` tells how it goes; logs are in {manifest.folder}/log")
    return manifest


@contextmanager
def _alone(store: Store) -> Iterator[None]:
    """Nobody else may look at the queue and submit in between.

    Raises:
        UserError: somebody does, or the results folder cannot be written.
    """
    with claims.claim(store.sweeps, ["submitting"]) as (_, busy):
        for owner in busy.values():
            who = f"process {owner.get('pid')} on {owner.get('host')}"
            raise UserError(f"{who} is submitting from {store.root}", "repeat the command when it is done")
        yield


def _todo(plan: Plan, now: Situation, retry: Retry, tell: Callable[[str], None]) -> dict[str, list[int]]:
    """Seeds to submit by config id; tells what there is of each state."""
    todo: dict[str, list[int]] = {}
    shown: Counter[str] = Counter()
    for cell, seed, run in states(plan, now):
        queued = run.state != "running" and now.queued(run.run_id)
        if not queued and run.state not in ("running", "done") and seed in cell.todo(retry=retry):
            todo.setdefault(cell.config.config_id, []).append(seed)
        shown["queued" if queued else run.state] += 1
    counts = ", ".join(f"{shown[state]} {state}" for state in STATES if shown[state])
    number = sum(map(len, todo.values()))
    tell(f"{plan.sweep.title}: {len(plan.cells)} cells, {shown.total()} runs: {counts}; {number} to submit")
    for method, target, reason in plan.skipped:
        tell(f"skipped {method} x {target}: {reason}")
    return todo


def join(plan: Plan) -> Situation:
    """What the queue, claims and journals say about a plan's runs, whichever sweep submitted them."""
    unfinished = {run_id for run_id, record in plan.runs() if record is None or record["status"] != "done"}
    return situation(plan.store, manifests(plan.store), unfinished)


def states(plan: Plan, now: Situation) -> Iterator[tuple[Cell, int, RunState]]:
    """Every run of a plan and where it stands."""
    for cell in plan.cells:
        for seed in cell.config.seeds:
            run_id, record = cell.config.run_id(seed), cell.records.get(seed)
            run = now.of(run_id, record)
            if run.state in ("lost", "missing"):  # it may have ended well after we had looked for its record
                late = finished(cell.config, plan.store, [seed])
                run = now.of(run_id, late[seed]) if seed in late else run
            yield cell, seed, run
