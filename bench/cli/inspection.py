"""``sivibench status`` and ``show``."""

from __future__ import annotations

import argparse
import sys

from bench.cli import states
from bench.cli.shared import describe, number, print_json, records_of, store_of


def status(args: argparse.Namespace) -> int:
    """Counts by method and target, and what became of single runs; 1 if a record is unreadable."""
    code = 0
    if args.name:
        from bench.cli.cluster import plan_of  # imported late: `status` of a folder needs no torch

        runs, notes, _ = states.of_plan(plan_of(args))
    else:
        store, records, code = records_of(args)
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
