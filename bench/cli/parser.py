"""Arguments of every command; what a command does is imported only when it is called."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from bench.errors import UserError
from bench.status import RETRIED


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

    add = _command(commands, "list", "catalog:list_", "what is registered")
    add("what", nargs="?", choices=["methods", "targets", "metrics"], help="one kind only")
    add("--verbose", action="store_true", help="with hyper-parameters and protocols")

    add = _command(commands, "run", "runs:run", "run one configuration for some seeds")
    add("overrides", nargs="*", metavar="KEY=VALUE", help="Hydra overrides, e.g. method=... target=... seeds=4")
    add("--retry", action="store_true", help="fit again what failed, diverged or timed out")

    add = _command(commands, "sweep", "runs:sweep", "run what is missing of a sweep, here or on a cluster")
    add("name", help="a sweep of conf/sweep, a .yaml file, or the first override of a sweep without a file")
    add(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="overrides that win over the file's; launcher=local|debug|slurm, launcher.<key>=..., site=NAME",
    )
    add("--jobs", type=int, metavar="N", help="with launcher=local: processes at once (default: CPUs, or 1 on a GPU)")
    add("--dry-run", action="store_true", help="only show what is done and what is to do, and what it may cost")
    add("--watch", action="store_true", help="with launcher=slurm: wait for the jobs, with a table that keeps up")
    add("--retry", metavar="STATUS", help=_RETRY)

    add = _command(commands, "teacher", "teacher:teacher", "train a diffusion teacher, or convert a published one")
    add("name", nargs="?", help="a teacher of conf/teacher, or `convert FILE`; nothing: list them")
    add(
        "overrides", nargs="*", metavar="KEY=VALUE", help="overrides that win over the file's; seeds=[100]: another one"
    )
    add("--format", help="convert: ddpm-torch, improved-diffusion, edm or diffusers (a folder)")
    add("--size", type=int, default=0, metavar="PIXELS", help="convert: height and width of the images")
    add("--data", default="", metavar="TARGET", help="convert: the target it was trained on")
    add("--sha256", default="", metavar="HEX", help="convert: checksum that the file must have")
    add(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="convert: what the file does not tell (heads=4)"
    )
    add("--id", default="", metavar="NAME", help="convert: id of the teacher (default: the file's name and checksum)")
    add("--out", metavar="FOLDER", help="convert: where the teacher goes (default: the cache's folder of teachers)")

    add = _command(commands, "reproduce", "reproduce:reproduce", "run a paper's table beside its published numbers")
    add("name", nargs="?", help="a table of conf/paper; `all`: every table from the records; nothing: list them")
    add("overrides", nargs="*", metavar="KEY=VALUE", help="where and how to run: device=cuda compile=true ...")
    add("--seeds", type=int, metavar="N", help="seeds per cell (default: the table's)")
    add("--budget", type=float, default=1.0, metavar="F", help="fraction of the paper's iterations (default: 1)")
    add("--jobs", type=int, metavar="N", help="processes at once (default: CPUs, or 1 on a GPU)")
    add(
        "--dry-run", action="store_true", help="run nothing: show what is missing, and the table from its records alone"
    )
    add("--retry", action="store_true", help="fit again what failed, diverged or timed out")
    add("--markdown", metavar="FILE", help="put the tables into FILE, between its marks")
    add("--latex", metavar="FILE", help="write the tables as LaTeX")

    add = _command(commands, "status", "inspection:status", "how many runs are done, failed, running, missing")
    add("name", nargs="?", help="a sweep; everything in the results folder unless given")

    add = _command(commands, "cancel", "cluster:cancel", "cancel the SLURM jobs of a sweep")
    add("name", help="a sweep that was submitted")

    add = _command(commands, "show", "inspection:show", "one run")
    add("run_id", help="run id or the beginning of one")

    add = _command(commands, "report", "reports:report", "tables of all runs, and the same as HTML, Markdown and LaTeX")
    add("what", nargs="?", choices=["diffusion"], help="diffusion: few-step samplers at equal network evaluations")
    add("--metric", action="append", default=[], metavar="NAME", help="of `report diffusion`: instead of its choice")
    add("--target", help="one target only")
    add("--out", metavar="DIR", help="folder of the pages (default: <results>/reports)")

    add = _command(commands, "evaluate", "evaluate:evaluate", "add metrics to finished runs from their kept parameters")
    add(
        "metrics",
        nargs="*",
        metavar="METRIC",
        help="what to measure (default: what a target's list has and a run lacks)",
    )
    add("--device", default="cpu", help="cpu, cuda or auto: where to compute (default: cpu)")
    add("--target", help="one target only")
    add("--method", help="one method only")

    add = _command(commands, "wandb", "wandb:wandb", "mirror records in W&B, upload offline runs")
    add("action", choices=["push", "sync"], help="push: records that are there; sync: what was written offline")
    add("overrides", nargs="*", metavar="KEY=VALUE", help="for push: wandb.project=... wandb.entity=... wandb.mode=...")
    add("--target", help="push one target only")
    add("--method", help="push one method only")
    add("--again", action="store_true", help="push what is mirrored already, too (its history is not repeated)")

    add = _command(commands, "check", "check:check", "look for damaged or inconsistent records")

    add = _command(commands, "reference", "reports:reference", "make the reference draws of a target again")
    add("target", help="a target with a reference sampler")

    add = _command(commands, "features", "features:features", "train a feature network of the image metrics again")
    add("name", help="a classifier of bench/features/weights")
    add("--out", metavar="DIR", help="folder for the weights and their provenance (default: only compare)")

    speed = commands.add_parser("speed", help="measure the engine")
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


_RETRY = "fit again what failed, diverged or timed out, or only that: --retry=" + ",".join(RETRIED)


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


def _command(commands: Any, name: str, function: str, description: str) -> Callable[..., Any]:
    parser = commands.add_parser(name, help=description, description=description[0].upper() + description[1:] + ".")
    parser.add_argument(
        "--results",
        metavar="DIR",
        help="results folder (default: $SIVIBENCH_RESULTS, else what the configuration says)",
    )
    parser.add_argument("--json", action="store_true", help="machine-readable output")

    def command(args: argparse.Namespace) -> int:
        module, attribute = function.split(":")
        return int(getattr(import_module(f"bench.cli.{module}"), attribute)(args))

    parser.set_defaults(command=command)
    add: Callable[..., Any] = parser.add_argument
    return add
