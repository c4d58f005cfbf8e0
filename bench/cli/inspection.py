"""``sivibench status``, ``show`` and ``check``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable

from bench.check import check_store
from bench.cli.parser import print_json
from bench.cli.runs import describe, number
from bench.errors import UserError
from bench.store import Store


def store_of(args: argparse.Namespace) -> Store:
    """The results folder of a command that composes no configuration.

    Raises:
        UserError: it is a file.
    """
    store = Store(args.results or os.environ.get("SIVIBENCH_RESULTS") or "results")
    if store.root.exists() and not store.root.is_dir():
        raise UserError(f"{store.root} is a file, not a results folder", "give a folder with --results")
    return store


def name_unreadable(errors: Iterable[UserError]) -> int:
    """Name unreadable records on stderr; 1 if there are any."""
    code = 0
    for error in errors:
        print(f"sivibench: {error}", file=sys.stderr)
        code = 1
    return code


def status(args: argparse.Namespace) -> int:
    """Counts by method and target, and what became of single runs; 1 if a record is unreadable."""
    from bench.cli import states

    code = 0
    if args.name:
        from bench.cli.cluster import plan_of

        runs, notes, _ = states.of_plan(plan_of(args))
    else:
        store = store_of(args)
        records, unreadable = store.load()
        code = name_unreadable(unreadable)
        runs, notes = states.of_store(store, records)
    counted = states.rows(runs)
    if args.json:
        print_json(counted)
    else:
        print("\n".join([*states.table(counted), *states.stories(counted)]))
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    return code


def show(args: argparse.Namespace) -> int:
    """One record; curves and samples only with ``--json``."""
    record = store_of(args).find(args.run_id)
    if args.json:
        print_json(record)
        return 0
    print(describe(record))
    for part, values in record["config"].items():
        settings = " ".join(f"{key}={value}" for key, value in values.items()) if isinstance(values, dict) else values
        print(f"  {part}: {settings}")
    for name, measured in record["metrics"].items():
        floor = f"  floor {number(measured['floor'])}" if measured.get("floor") is not None else ""
        print(f"  {name}: {number(measured['value'])}{floor}  protocol {measured['protocol']}")
    for name, reason in record["skipped_metrics"].items():
        print(f"  {name}: skipped, {reason}")
    if record.get("diverged_at") is not None:
        print(f"  diverged at step {record['diverged_at']}")
    for part in ("cost", "env"):
        print(f"  {part}: " + " ".join(f"{key}={value}" for key, value in record[part].items()))
    print(f"  created: {record['created']}")
    if record.get("error"):
        print(record["error"])
    return 0


def check(args: argparse.Namespace) -> int:
    """All problems of the results folder; 1 if any is an error."""
    store = store_of(args)
    if not store.root.exists():  # a mistyped name must not pass
        raise UserError(f"there is no results folder {store.root}", "give one with --results")
    problems = check_store(store)
    if args.json:
        print_json([vars(problem) for problem in problems])
    else:
        for problem in problems:
            print(problem)
        errors = sum(problem.level == "error" for problem in problems)
        print(f"{len(store.files())} records: {errors} errors, {len(problems) - errors} warnings")
    return int(any(problem.level == "error" for problem in problems))
