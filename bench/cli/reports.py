"""``sivibench report`` and ``sivibench reference``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bench import registry
from bench.cli.shared import print_json, records_of, store_of
from bench.errors import UserError
from bench.files import check_place, explain_os_error
from bench.plan.expand import sweeps_of
from bench.report.table import About


def report(args: argparse.Namespace) -> int:
    """Print the tables and write the pages; 1 if a record is unreadable."""
    if args.out:
        check_place(Path(args.out) / "report.html")
    as_json, render_terminal, write = _renderers(args)
    store, records, code = records_of(args)
    if args.json:
        print_json(as_json(records))
    else:
        print(render_terminal(records), end="")
    if not (args.out if args.json else records):
        return code
    folder = Path(args.out) if args.out else store.root / "reports"
    try:
        paths = write(records, folder, _title(args))
    except OSError as error:
        problem = explain_os_error(folder, error)
        if problem is None:
            raise
        raise problem from error
    if not args.json:
        print(f"written: {', '.join(str(path) for path in paths.values())}")
    return code


def _renderers(args: argparse.Namespace) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    """Data, text and pages of the report asked for.

    Raises:
        UserError: ``--metric`` names no metric, or the report has no choice of metrics.
    """
    if args.what is None:
        if args.metric:
            raise UserError("--metric without a report that asks for it", "sivibench report diffusion --metric ...")
        from bench import report

        sweeps = sweeps_of(store_of(args).root)
        notes = tuple(text for sweep in sweeps if sweep.notes for text in (sweep.title, *sweep.notes))
        about = About(notes, {pair: why for sweep in sweeps for pair, why in sweep.exclude.items()})
        functions = (report.as_json, report.render_terminal, report.write_report)
        return tuple(partial(function, about=about) for function in functions)  # type: ignore[return-value]
    from bench.report import diffusion

    for name in args.metric:
        registry.get("metric", name)
    made = (diffusion.as_json, diffusion.render_terminal, diffusion.write_report)
    return tuple(partial(function, metrics=args.metric) for function in made)  # type: ignore[return-value]


def _title(args: argparse.Namespace) -> str:
    subject = "few-step samplers of diffusions" if args.what else ""
    return ": ".join(filter(None, ("sivibench", subject, args.target)))


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
