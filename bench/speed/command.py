"""``sivibench speed``: seed-iterations per second for method x target x seeds x mode."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.config import compose
from bench.device import hardware, resolve_device
from bench.environment import environment
from bench.errors import UserError
from bench.files import check_place, write_atomic
from bench.registry import get
from bench.speed import draws
from bench.speed.cells import Cell, every_method
from bench.speed.measure import Variant, measure, variants
from bench.speed.memory import peak_of_fit
from bench.speed.render import markdown, terminal

Row = dict[str, Any]

SEEDS, MODES, SECONDS = "1,10", "eager,compile", 2.0
OF_STEPS = ("all", "seeds", "modes", "seconds", "memory", "markdown")
"""Options that ``--draws`` has no use for."""

COMMON = ("hardware", "overrides", "settings")
"""What all rows of an output file have in common, beside the code."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the subcommand."""
    parser.add_argument("--method", default="ksivi,sivism", help="methods, comma separated (default: %(default)s)")
    parser.add_argument(
        "--target", default="banana,blr_breast_cancer", help="targets, comma separated (default: %(default)s)"
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="every trained method, on the first target it has settings for (--target first), else the first it fits",
    )
    parser.add_argument("--seeds", help=f"numbers of seeds trained together, comma separated (default: {SEEDS})")
    parser.add_argument("--modes", help=f"eager (traced graph), compile (default: {MODES})")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or auto (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default: %(default)s)")
    parser.add_argument("--seconds", type=float, help=f"time per variant and round (default: {SECONDS})")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: %(default)s)")
    parser.add_argument("--memory", action="store_true", help="peak memory too, each variant in a process of its own")
    parser.add_argument("--draws", type=int, metavar="N", help="time N draws of each method instead of training steps")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--output", type=Path, help="JSON file, written after each cell; cells that it has are skipped")
    parser.add_argument("--markdown", type=Path, help="file for the table in Markdown")
    parser.add_argument("overrides", nargs="*", help="further overrides, for example method.bandwidth=bisection")


def main(args: argparse.Namespace) -> int:
    """Measure and print, one block per method and target; write the files asked for."""
    for name in ("rounds", "seconds", "threads", "draws"):
        if (value := getattr(args, name)) is not None and not value > 0:
            raise UserError(f"--{name} {value} is not positive", "give more than 0")
    for file in filter(None, (args.output, args.markdown)):
        check_place(file)
    if args.draws is not None:
        if given := next((name for name in OF_STEPS if getattr(args, name)), ""):
            raise UserError(f"--{given} is about training steps", "leave it out, or --draws")
        return draws.main(args)
    torch.set_num_threads(args.threads)
    modes = (args.modes or MODES).split(",")
    if unknown := sorted(set(modes) - {"eager", "compile"}):
        raise UserError(f"unknown mode {', '.join(unknown)}", "choose from: eager, compile")
    device, counts, targets = resolve_device(args.device), _counts(args.seeds or SEEDS), args.target.split(",")
    cells = every_method(targets) if args.all else [(m, t) for m in args.method.split(",") for t in targets]
    seconds = args.seconds or SECONDS
    table: dict[str, Any] = {
        "hardware": hardware(device, args.threads),
        "env": environment(device, threads=args.threads, compile="compile" in modes),
        "overrides": args.overrides,
        "settings": {"seeds": counts, "modes": modes, "rounds": args.rounds, "seconds": seconds, "memory": args.memory},
    }
    rows: list[Row] = [] if args.output is None else _known(args.output, table)
    table["rows"] = rows
    say: Callable[[str], None] = (lambda text: None) if args.json else (lambda text: print(text, flush=True))
    say(table["hardware"])
    for cell in cells:
        found = [row for row in rows if (row["method"], row["target"]) == cell]
        if not found:
            found = _measured(cell, table, device)
            rows += found
            if args.output is not None:
                write_atomic(args.output, _text(table).encode())
        say(terminal(found, args.overrides))
    if args.markdown is not None:
        write_atomic(args.markdown, markdown(table).encode())
    if args.json:
        print(_text(table), end="")
    return 0


def _known(path: Path, table: dict[str, Any]) -> list[Row]:
    """Rows of an output file that is to be continued.

    Raises:
        UserError: it holds something else, or times of another machine, other code, overrides or settings.
    """
    if not path.exists():
        return []
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
        before, rows = (old["env"]["source"], *(old.get(key) for key in COMMON)), list(old["rows"])
        of_steps = all({"method", "target", "mode", "seeds", "times_faster_than_plain"} <= row.keys() for row in rows)
    except (ValueError, LookupError, TypeError, AttributeError):  # no text, no JSON, JSON of another kind
        of_steps = False
    if not of_steps:
        raise UserError(f"{path} holds no times of training steps", "name another file")
    if before != (table["env"]["source"], *(table[key] for key in COMMON)):
        raise UserError(
            f"{path} holds times of another machine, other code, other overrides or other settings",
            'name another file, or repeat the command that wrote it (its "settings" are in it)',
        )
    return rows


def _text(table: dict[str, Any]) -> str:
    """JSON with one row per line."""
    head = json.dumps({key: value for key, value in table.items() if key != "rows"}, indent=1)
    rows = ",\n".join(json.dumps(row) for row in table["rows"])
    return f'{head[:-2]},\n "rows": [\n{rows}\n]}}\n'


def _counts(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1:
        raise UserError(f"--seeds {text!r} is not a list of positive numbers", "for example --seeds 1,10")
    return counts


def _measured(cell: Cell, table: dict[str, Any], device: torch.device) -> list[Row]:
    (method, target), settings = cell, table["settings"]
    if not get("method", method).obj.trained:
        raise UserError(f"{method} has no training steps to time", "--draws N times its draws")
    overrides = [f"method={method}", f"target={target}", *table["overrides"]]
    found = variants(compose(overrides), device, settings["seeds"], settings["modes"])
    measure(found, device, rounds=settings["rounds"], seconds=settings["seconds"])
    for variant in found[1:] if settings["memory"] else ():
        variant.peak_bytes = peak_of_fit(overrides, device, variant.seeds, variant.mode)
    return [_row(method, target, variant, found[0]) for variant in found]


def _row(method: str, target: str, variant: Variant, baseline: Variant) -> Row:
    ratios = [b / v for b, v in zip(baseline.times, variant.times, strict=True)]
    return {
        "method": method,
        "target": target,
        "mode": variant.mode,
        "seeds": variant.seeds,
        "ms_per_seed_iteration": variant.milliseconds,
        "ms_range": [1e3 * min(variant.times), 1e3 * max(variant.times)],
        "seed_iterations_per_second": 1e3 / variant.milliseconds,
        "times_faster_than_plain": baseline.milliseconds / variant.milliseconds,
        "ratio_range": [min(ratios), max(ratios)],
        "setup_seconds": variant.setup_seconds,
        "operations": variant.operations,
        "peak_bytes": variant.peak_bytes,
    }
