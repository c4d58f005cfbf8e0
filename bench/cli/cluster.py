"""``sivibench cancel``, and the part of ``status`` that asks the queue."""

from __future__ import annotations

import argparse
from typing import Any

from bench.cli.parser import print_json
from bench.errors import UserError
from bench.launch import queue
from bench.launch.manifest import Manifest, manifests
from bench.launch.state import drifted, situation
from bench.store import Store
from bench.sweep.expand import Sweep, load_sweep
from bench.sweep.plan import Plan, make_plan
from bench.sweep.slurm import join

SHOWN = ("failed", "timeout", "running", "queued", "lost")
"""States that come with a reason."""


def submissions(args: argparse.Namespace) -> tuple[Store, list[Manifest]]:
    """Submissions of the sweep named in the arguments.

    Raises:
        UserError: unknown sweep, or the results folder is a file.
    """
    from pathlib import Path

    from bench.cli.inspection import store_of

    name = str(args.name)
    stem = Path(name).stem if name.endswith((".yaml", ".yml")) else name
    store = store_of(args)
    if not args.results:
        try:
            results = load_sweep(name).results
        except UserError:
            results = None
        store = Store(results) if results else store
    return store, manifests(store, stem)


def plan_of(args: argparse.Namespace) -> Plan:
    """The sweep named in the arguments; as it was last submitted, if it was.

    Raises:
        UserError: unknown sweep.
    """
    store, submitted = submissions(args)
    if not submitted:
        return make_plan(args.name, results=args.results)
    last = submitted[-1]
    return make_plan(Sweep(last.sweep, last.sweep, last.lines, last.exclude), last.overrides, store.root)


def problems(plan: Plan) -> tuple[list[dict[str, Any]], list[str]]:
    """What there is to say about single runs of a plan, and about its jobs."""
    now = join(plan)
    found = []
    for cell in plan.cells:
        for seed in cell.config.seeds:
            run = now.of(cell.config.run_id(seed), cell.records.get(seed))
            about = {"method": cell.method, "target": cell.target, "seed": seed}
            found.append(about | vars(run))
    notes = []
    used = list({id(manifest): manifest for manifest, _ in now.last.values()}.values())
    if used and not now.queue.reached:
        notes.append("SLURM does not answer: which jobs wait or run is not known")
    if other := drifted(used):
        notes.append(f"{len(other)} jobs started with other code than was submitted: {', '.join(other[:5])}")
    return found, notes


def cancel(args: argparse.Namespace) -> int:
    """Cancel what waits or runs of a sweep."""
    store, submitted = submissions(args)
    if not submitted:
        raise UserError(f"the sweep {args.name!r} was not submitted from {store.root}", "look at `sivibench status`")
    queue.check_slurm(None)
    live = sorted(situation(store, submitted).live)
    if live:
        queue.cancel(live)
    if args.json:
        print_json({"cancelled": live})
    else:
        print(f"cancelled {len(live)} jobs" + (f": {', '.join(live[:10])}" if live else ""))
    return 0
