"""Name, arguments and function of every command; what a command does is imported only when it is called."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module
from typing import Any

from bench.status import RETRIED


def _command(commands: Any, name: str, function: str, description: str) -> Callable[..., Any]:
    parser = commands.add_parser(name, help=description, description=description[0].upper() + description[1:] + ".")
    parser.add_argument(
        "--results",
        metavar="DIR",
        help="results folder (default: that of the sweep's file, else $SIVIBENCH_RESULTS, else results)",
    )
    parser.add_argument("--json", action="store_true", help="machine-readable output")

    def command(args: argparse.Namespace) -> int:
        module, attribute = function.split(":")
        return int(getattr(import_module(f"bench.cli.{module}"), attribute)(args))

    parser.set_defaults(command=command)
    add: Callable[..., Any] = parser.add_argument
    return add


def _list(commands: Any) -> None:
    add = _command(commands, "list", "catalog:list_", "what is registered")
    add("what", nargs="?", choices=["methods", "targets", "metrics"], help="one kind only")
    add("--verbose", action="store_true", help="with hyper-parameters and protocols")


def _run(commands: Any) -> None:
    add = _command(commands, "run", "runs:run", "run one configuration for some seeds")
    add("overrides", nargs="*", metavar="KEY=VALUE", help="Hydra overrides, e.g. method=... target=... seeds=4")
    add("--retry", action="store_true", help="fit again what failed, diverged or timed out")


def _sweep(commands: Any) -> None:
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
    add(
        "--retry",
        metavar="STATUS",
        help=f"fit again what failed, diverged or timed out, or only that: --retry={','.join(RETRIED)}",
    )


def _teacher(commands: Any) -> None:
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


def _reproduce(commands: Any) -> None:
    add = _command(commands, "reproduce", "reproduce:reproduce", "run a paper's table beside its published numbers")
    add("name", nargs="?", help="a table of conf/paper; `all`: every table from the records; nothing: list them")
    add(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="where and how to run: device=cuda launcher=slurm site=NAME ...",
    )
    add("--seeds", type=int, metavar="N", help="seeds per cell (default: the table's)")
    add("--budget", type=float, default=1.0, metavar="F", help="fraction of the paper's iterations (default: 1)")
    add("--jobs", type=int, metavar="N", help="processes at once (default: CPUs, or 1 on a GPU)")
    add(
        "--dry-run", action="store_true", help="run nothing: show what is missing, and the table from its records alone"
    )
    add("--retry", action="store_true", help="fit again what failed, diverged or timed out")
    add("--markdown", metavar="FILE", help="put the tables into FILE, between its marks")
    add("--latex", metavar="FILE", help="write the tables as LaTeX")


def _status(commands: Any) -> None:
    add = _command(commands, "status", "inspection:status", "how many runs are done, failed, running, missing")
    add("name", nargs="?", help="a sweep; everything in the results folder unless given")


def _cancel(commands: Any) -> None:
    add = _command(commands, "cancel", "cluster:cancel", "cancel the SLURM jobs of a sweep")
    add("name", help="a sweep that was submitted")


def _show(commands: Any) -> None:
    add = _command(commands, "show", "inspection:show", "one run")
    add("run_id", help="run id or the beginning of one")


def _report(commands: Any) -> None:
    add = _command(commands, "report", "reports:report", "tables of all runs, and the same as HTML, Markdown and LaTeX")
    add("what", nargs="?", choices=["diffusion"], help="diffusion: few-step samplers at equal network evaluations")
    add("--metric", action="append", default=[], metavar="NAME", help="of `report diffusion`: instead of its choice")
    add("--target", help="one target only")
    add("--out", metavar="DIR", help="folder of the pages (default: <results>/reports)")


def _evaluate(commands: Any) -> None:
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


def _wandb(commands: Any) -> None:
    add = _command(commands, "wandb", "wandb:wandb", "mirror records in W&B, upload offline runs")
    add("action", choices=["push", "sync"], help="push: records that are there; sync: what was written offline")
    add("overrides", nargs="*", metavar="KEY=VALUE", help="for push: wandb.project=... wandb.entity=... wandb.mode=...")
    add("--target", help="push one target only")
    add("--method", help="push one method only")
    add("--again", action="store_true", help="push what is mirrored already, too (its history is not repeated)")


def _check(commands: Any) -> None:
    _command(commands, "check", "check:check", "look for damaged or inconsistent records")


def _reference(commands: Any) -> None:
    add = _command(commands, "reference", "reports:reference", "make the reference draws of a target again")
    add("target", help="a target with a reference sampler")


def _features(commands: Any) -> None:
    add = _command(commands, "features", "features:features", "train a feature network of the image metrics again")
    add("name", help="a classifier of bench/features/weights")
    add("--out", metavar="DIR", help="folder for the weights and their provenance (default: only compare)")


COMMANDS = (
    _list,
    _run,
    _sweep,
    _teacher,
    _reproduce,
    _status,
    _cancel,
    _show,
    _report,
    _evaluate,
    _wandb,
    _check,
    _reference,
    _features,
)
"""In the order of ``sivibench --help``."""
