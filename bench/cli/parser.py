"""The command line: arguments to what a command needs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module

from bench.cli.commands import COMMANDS
from bench.errors import UserError
from bench.status import RETRIED

SPEED = "time training steps, or draws, beside a plain baseline"


def make_parser(given: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The parser.

    Args:
        given: the arguments to come; a command with arguments of its own module is loaded only if named there.
    """
    parser = argparse.ArgumentParser(
        prog="sivibench",
        description="Benchmark of semi-implicit variational inference.",
        epilog="Example: sivibench run method=meanfield target=banana seeds=4 train.iterations=2000 --results scratch",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for declare in COMMANDS:
        declare(commands)
    speed = commands.add_parser("speed", help=SPEED, description=SPEED[0].upper() + SPEED[1:] + ".")
    if given[:1] == ["speed"]:
        module = import_module("bench.speed")
        module.add_arguments(speed)
        speed.set_defaults(command=lambda args: int(module.main(args) or 0))
    return parser


def parse(given: Sequence[str]) -> argparse.Namespace:
    """Parse; overrides may stand before, between and after options, which argparse alone does not allow."""
    parser = make_parser(given)
    if given[:1] == ["sweep"]:  # argparse would take the override behind a bare --retry for its value
        pairs = zip(given, [*given[1:], ""], strict=True)
        given = ["--retry=" if text == "--retry" and not _names_status(after) else text for text, after in pairs]
    args, rest = parser.parse_known_args(given)
    if rest and (any(text.startswith("-") for text in rest) or not hasattr(args, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.overrides = [*args.overrides, *rest]
    return args


def _names_status(text: str) -> bool:
    return text != "" and set(text.split(",")) <= set(RETRIED)


def retry_of(text: str | None) -> bool | frozenset[str]:
    """The statuses named after ``--retry``; all of them if none is.

    Raises:
        UserError: a status that is none, or that nobody retries.
    """
    if not text:
        return text is not None
    named = frozenset(text.split(","))
    unknown = sorted(named - set(RETRIED))
    if unknown:
        raise UserError(f"--retry={text}: {unknown[0]!r} cannot be retried", f"choose from: {', '.join(RETRIED)}")
    return named
