"""``sivibench cancel``, and a sweep as it was submitted."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.cli.shared import print_json, store_of
from bench.errors import UserError
from bench.launch import queue
from bench.launch.manifest import Manifest, manifests
from bench.launch.state import situation
from bench.plan.cells import Plan, make_plan
from bench.plan.expand import Sweep, load_sweep
from bench.store import Store
from targets.fetch import local_only


def submissions(args: argparse.Namespace) -> tuple[Store, list[Manifest]]:
    """Submissions of the sweep named in the arguments.

    Raises:
        UserError: unknown sweep, or the results folder is a file.
    """
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
    with local_only():  # looking at a sweep is no reason to download its data
        if not submitted:
            return make_plan(args.name, results=args.results)
        return make_plan(as_submitted(submitted[-1]), submitted[-1].overrides, store.root)


def as_submitted(manifest: Manifest) -> Sweep:
    """The sweep that was submitted; its file may have changed since, or be gone."""
    return Sweep(
        manifest.sweep,
        manifest.title or manifest.sweep,
        manifest.lines,
        manifest.exclude,
        results=manifest.results,
        replace=manifest.replace,
    )


def cancel(args: argparse.Namespace) -> int:
    """Cancel what waits or runs of a sweep.

    Raises:
        UserError: not submitted from here, or SLURM did not answer, so that jobs may be left.
    """
    store, submitted = submissions(args)
    if not submitted:
        raise UserError(f"the sweep {args.name!r} was not submitted from {store.root}", "look at `sivibench status`")
    queue.check_slurm(None)
    now = situation(store, submitted)
    live = sorted(now.live)
    if live:
        queue.cancel(live)
    if args.json:
        print_json({"cancelled": live})
    else:
        print(f"cancelled {len(live)} jobs" + (f": {', '.join(live[:10])}" if live else ""))
    if not now.queue.reached:
        raise UserError("SLURM did not answer for all jobs", f"repeat `sivibench cancel {args.name}`")
    return 0
