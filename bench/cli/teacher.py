"""``sivibench teacher``: train a teacher and publish its weights, or convert one that others have published."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from bench.cli.shared import print_json, to_stderr
from bench.errors import UserError
from bench.teacher import configuration, names, train

CONVERT = ("format", "size", "data", "sha256", "set", "id", "out")
"""Options of ``convert`` alone."""


def teacher(args: argparse.Namespace) -> int:
    """Train what is missing of one teacher and publish it; without a name, list what can be trained."""
    given = [name for name in CONVERT if getattr(args, name)]
    if args.name != "convert" and given:
        raise UserError(f"--{given[0]} belongs to `sivibench teacher convert`", "leave it out")
    if args.name is None:
        print_json(names()) if args.json else print("\n".join(names()))
        return 0
    if args.name == "convert":
        return convert(args)
    config = configuration(args.name, args.overrides)
    if args.results:
        config = replace(config, results=args.results)
    paths = train(config, tell=to_stderr)
    if args.json:
        print_json([str(path) for path in paths])
    return 0


def convert(args: argparse.Namespace) -> int:
    """Make a teacher of a published file or folder; prints its id, which ``target.teacher`` takes."""
    from targets.diffusion.conversion import convert as conversion

    if len(args.overrides) != 1 or args.format is None:
        raise UserError("which file?", "sivibench teacher convert FILE --format NAME, see `sivibench teacher --help`")
    path, card = conversion.convert(
        Path(args.overrides[0]).expanduser(),
        args.format,
        out=Path(args.out).expanduser() if args.out else None,
        data=args.data,
        name=args.id,
        size=args.size,
        sha256=args.sha256,
        settings=dict(map(_setting, args.set)),
    )
    if args.json:
        print_json({"teacher": card.run, "path": str(path)})
    else:
        print(f"{card.run}  {path}")
        print(f"use it with target.teacher={card.run if args.out is None else path}")
    return 0


def _setting(text: str) -> tuple[str, float | str]:
    """``eps=1e-5``, ``heads=4`` or ``schedule=linear``."""
    key, _, value = text.partition("=")
    if key == "schedule":
        return key, value
    try:
        return key, int(value) if value.isdecimal() else float(value)
    except ValueError as error:
        raise UserError(f"--set {text}", "give a number, for example --set heads=4") from error
