"""What several commands share: the folder and the records they are about, and how a record and data are printed."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any, Literal

from bench.errors import UserError
from bench.store import Record, Store


def store_of(args: argparse.Namespace) -> Store:
    """The results folder of a command that composes no configuration; it need not be there yet.

    Raises:
        UserError: it is a file.
    """
    store = Store(args.results or os.environ.get("SIVIBENCH_RESULTS") or "results")
    if store.root.exists() and not store.root.is_dir():
        raise UserError(f"{store.root} is a file, not a results folder", "give a folder with --results")
    return store


def present_store_of(args: argparse.Namespace) -> Store:
    """The results folder of a command that only reads what is there.

    Raises:
        UserError: it is a file, or there is none, as its name is mistyped.
    """
    store = store_of(args)
    if not store.root.exists():
        raise UserError(
            f"there is no results folder {store.root}", "give one with --results; `run` and `sweep` make it"
        )
    return store


def records_of(args: argparse.Namespace) -> tuple[Store, list[Record], int]:
    """The results folder, the records of ``--target`` and ``--method`` (where a command has them), and an exit code.

    Unreadable records are named on stderr; the code is 1 if there are any.

    Raises:
        UserError: no such folder, or a name that is neither on record nor registered.
    """
    store = store_of(args)
    kinds: tuple[Literal["target", "method"], ...] = ("target", "method")
    asked: dict[str, str] = {kind: name for kind in kinds if (name := getattr(args, kind, None))}
    for kind in kinds:
        if kind in asked and not store.files(**{kind: asked[kind]}):
            from bench.registry import get  # imported late: it loads torch and all components

            get(kind, asked[kind])
    records, unreadable = present_store_of(args).load(**asked)
    return store, records, name_unreadable(unreadable)


def name_unreadable(errors: Iterable[UserError]) -> int:
    """Name unreadable records on stderr; 1 if there are any."""
    code = 0
    for error in errors:
        print(f"sivibench: {error}", file=sys.stderr)
        code = 1
    return code


def to_stderr(message: str) -> None:
    """A line for a person beside the output."""
    print(message, file=sys.stderr, flush=True)


def teller(args: argparse.Namespace) -> Callable[[str], None]:
    """Prints lines for a person: on stdout, which ``--json`` keeps free for data."""
    return to_stderr if args.json else _to_stdout


def _to_stdout(message: str) -> None:
    print(message, flush=True)


def print_json(payload: Any) -> None:
    """Indented JSON on stdout."""
    print(json.dumps(payload, indent=2, default=str))


def describe(record: Record) -> str:
    """One line: id, what, status, headline metric."""
    line = f"{record['run_id']}  {record['method']} x {record['target']}  seed {record['seed']}  {record['status']}"
    if record.get("diverged_at") is not None:
        line += f" at step {record['diverged_at']}: a loss or gradient was not finite"
    skipped = list((record.get("skipped_metrics") or {}).items())
    for name, measured in list((record.get("metrics") or {}).items())[:1]:
        line += f"  {name} {number(measured['value'])}" + (
            f" (floor {number(measured['floor'])})" if measured.get("floor") is not None else ""
        )
    if record["status"] == "done" and skipped:  # the headline, if it is among them, is the first
        more = f" and {len(skipped) - 1} more" if len(skipped) > 1 else ""
        line += f"  ({skipped[0][0]}{more} skipped: {skipped[0][1]})"
    return line


def number(value: Any) -> str:
    """Four significant digits, ``-`` for what could not be measured."""
    return "-" if value is None else f"{value:.4g}"
