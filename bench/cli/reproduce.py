"""``sivibench reproduce``."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.cli.shared import print_json, teller
from bench.config import Composer
from bench.errors import UserError
from bench.files import check_place, write_atomic
from bench.reproduce import render
from bench.reproduce.run import Result
from bench.reproduce.run import reproduce as run_table
from bench.reproduce.tables import load_table, names


def reproduce(args: argparse.Namespace) -> int:
    """Run a table and compare it; without a name, or with ``all``, only look at the records; 1 if a run failed."""
    for file in filter(None, (args.markdown, args.latex)):
        check_place(Path(file))
    if args.name in (None, "all"):
        _refuse_how(args)
        compose = Composer()
        results = [_look(name, args, compose) for name in names()]
    else:
        results = [_run(args)]
    if args.json:
        print_json([render.data(result) for result in results])
    elif args.name is None:
        print(render.listing(results), end="")
    else:
        print("\n".join(map(render.text, results)))
        print(render.summary_line(results))
    _write(args, results)
    return int(any(result.failed for result in results) and not args.dry_run)


def _refuse_how(args: argparse.Namespace) -> None:
    """Refuse what would have no effect because nothing is run.

    Raises:
        UserError: it is there.
    """
    given = {"--jobs": args.jobs is not None, "--dry-run": args.dry_run, "--retry": args.retry}
    for text in [*map(repr, args.overrides), *(name for name, there in given.items() if there)]:
        what = "`all` runs none" if args.name else "the list of tables runs none"
        raise UserError(f"{text} says how to run a table, and {what}", "name one table, or leave it out")


def _look(name: str, args: argparse.Namespace, compose: Composer) -> Result:
    table = load_table(name)
    return run_table(
        table, seeds=args.seeds, budget=args.budget, results=args.results, only_records=True, compose=compose
    )


def _run(args: argparse.Namespace) -> Result:
    return run_table(
        load_table(args.name),
        seeds=args.seeds,
        budget=args.budget,
        overrides=how(args.overrides),
        results=args.results,
        jobs=args.jobs,
        dry_run=args.dry_run,
        retry=args.retry,
        tell=teller(args),
    )


def how(overrides: list[str]) -> list[str]:
    """Refuse overrides that would make another experiment of the table.

    Raises:
        UserError: an override of the method, the target, the budget, the evaluation or the seeds.
    """
    for text in overrides:
        key = text.lstrip("+~").split("=", 1)[0].split(".")[0]
        if key in ("method", "target", "train", "eval", "tuned", "seeds"):
            raise UserError(
                f"{text!r} changes what the table consists of",
                "only where and how to run can be given: device, compile, launcher, ...; see --seeds and --budget",
            )
    return overrides


def _write(args: argparse.Namespace, results: list[Result]) -> None:
    if args.markdown:
        sections = {"all": render.overview(results)} if args.name == "all" else {}
        sections |= {result.table.name: render.markdown(result) for result in results}
        render.write_between_marks(Path(args.markdown), sections)
    if args.latex:
        write_atomic(Path(args.latex), "\n".join(map(render.latex, results)).encode())
