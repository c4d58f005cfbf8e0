"""A sweep on a cluster: what is neither finished nor in the queue is submitted, and nobody waits for it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from bench.launch.site import Site
from bench.run import Retry
from bench.sweep.plan import Plan, longest_first, refresh

if TYPE_CHECKING:
    from bench.launch.manifest import Manifest
    from bench.launch.state import Situation


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
        UserError: as ``bench.launch.submit.submit``.
    """
    from bench.launch.estimate import describe_cost, pace
    from bench.launch.group import make_groups
    from bench.launch.submit import submit

    now = join(plan)
    todo: dict[str, list[int]] = {}
    states: Counter[str] = Counter()
    for cell in plan.cells:
        wanted = set(cell.todo(retry=retry))
        for seed in cell.config.seeds:
            run_id = cell.config.run_id(seed)
            state = now.of(run_id, cell.records.get(seed)).state
            busy = state == "running" or now.queued(run_id)
            if seed in wanted and not busy:
                todo.setdefault(cell.config.config_id, []).append(seed)
            states["queued" if busy and state != "running" else state] += 1
    shown = ", ".join(f"{number} {state}" for state, number in states.items())
    number = sum(map(len, todo.values()))
    tell(f"{plan.sweep.title}: {len(plan.cells)} cells, {states.total()} runs: {shown}; {number} to submit")
    for method, target, reason in plan.skipped:
        tell(f"skipped {method} x {target}: {reason}")
    if not todo:
        tell("submitted 0 jobs")
        return None
    left = [cell for cell in plan.cells if cell.config.config_id in todo]
    groups = make_groups(longest_first(left, plan.store), todo, options["seeds"])
    side = options["tasks_per_gpu"] * max(site.gpus_per_node, 1)
    jobs = -(-len(groups) // options["pack"])
    arrays = -(-jobs // site.max_array)
    cost = describe_cost(groups, pace(plan.store), gpus=site.gpus_per_node, side_by_side=side)
    tell(f"{len(groups)} batched runs in {jobs} jobs, {arrays} array{'s' * (arrays > 1)}; {cost}")
    if dry_run:
        for group in groups:
            tell(f"  {group.config_id}  {group.config.method['name']} x {group.config.target['name']}: "
                 f"seeds {','.join(map(str, group.config.seeds))}")  # fmt: skip
        return None
    manifest = submit(
        groups, sweep=plan.sweep, overrides=overrides, store=plan.store, site=site, options=options, tell=tell
    )
    tell(f"`sivibench status {plan.sweep.name}` tells how it goes; logs are in {manifest.folder}/log")
    return manifest


def join(plan: Plan) -> Situation:
    """What the queue, claims and journals say about a plan's runs, whichever sweep submitted them."""
    from bench.launch.manifest import manifests
    from bench.launch.state import situation

    runs = {cell.config.run_id(seed) for cell in plan.cells for seed in cell.config.seeds}
    return situation(
        plan.store, [m for m in manifests(plan.store) if any(run in runs for job in m.jobs for run in m.runs(job))]
    )


def watch(plan: Plan, tell: Callable[[str], None], *, every: float = 2.0) -> Plan:
    """Wait until no job of a plan's runs waits or runs; a line of counts whenever they change.

    Returns:
        The plan with the records there are then.
    """
    shown = ""
    while True:
        plan = refresh(plan)
        now = join(plan)
        states = Counter(now.of(run_id, record).state for run_id, record in plan.runs())
        line = ", ".join(f"{number} {state}" for state, number in sorted(states.items()))
        if line != shown:
            tell(f"[{time.strftime('%H:%M:%S')}] {line}")
            shown = line
        if not now.live:
            return plan
        time.sleep(every)
