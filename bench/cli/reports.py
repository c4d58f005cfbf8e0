"""``sivibench report`` and ``sivibench reference``."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench import registry
from bench.cli.inspection import name_unreadable, store_of
from bench.cli.parser import print_json
from bench.files import explain_os_error


def report(args: argparse.Namespace) -> int:
    """Print the tables and write the pages; 1 if a record is unreadable."""
    from bench.report import as_json, render_terminal, write_report

    store = store_of(args)
    if args.target:
        registry.get("target", args.target)
    records, unreadable = store.load(target=args.target or "*")
    code = name_unreadable(unreadable)
    if args.json:
        print_json(as_json(records))
    else:
        print(render_terminal(records), end="")
    if not (args.out if args.json else records):
        return code
    folder = Path(args.out) if args.out else store.root / "reports"
    try:
        paths = write_report(records, folder, _title(args))
    except OSError as error:
        problem = explain_os_error(folder, error)
        if problem is None:
            raise
        raise problem from error
    if not args.json:
        print(f"written: {', '.join(str(path) for path in paths.values())}")
    return code


def _title(args: argparse.Namespace) -> str:
    return f"sivibench: {args.target}" if args.target else "sivibench"


def reference(args: argparse.Namespace) -> int:
    """Make reference draws again and print their provenance."""
    from bench.reference import regenerate

    about = regenerate(args.target)
    if args.json:
        print_json(about)
    else:
        for key, value in about.items():
            print(f"{key}: {value}")
    return 0
