"""``sivibench speed --draws``: how long a number of draws takes, for samplers of equal cost in network evaluations."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bench.config import build_method, build_target, compose
from bench.device import clock, hardware, resolve_device
from bench.environment import environment
from bench.errors import UserError
from bench.files import write_atomic
from bench.fit.members import initialise
from bench.metrics.base import Fitted
from bench.metrics.nfe import counted_rows

Row = dict[str, Any]


def time_draws(overrides: list[str], n: int, device: torch.device, rounds: int) -> Row:
    """Seconds for n draws in one batch of a method as it is before training: parameters do not change the cost.

    Returns:
        Median and range over the rounds (processor time on one CPU thread), and the network evaluations per draw.
    """
    config = compose(overrides)
    target = build_target(config).to(device)
    method = initialise(lambda: build_method(config, target), [0])[0].to(device)
    fitted = Fitted(method, target, 0, device)
    with counted_rows(method.networks()) as found:
        fitted.fitted_draws(8)
    times = []
    for _ in range(rounds + 1):  # the first one warms up
        started = clock(device)
        fitted.fitted_draws(n)
        times.append(clock(device) - started)
    times = times[1:]
    return {
        "method": config.method["name"],
        "target": config.target["name"],
        "draws": n,
        "nfe": found.rows / 8,
        "seconds": median(times),
        "range": [min(times), max(times)],
    }


def main(args: argparse.Namespace) -> int:
    """One row per method and target, printed and, if asked for, written."""
    torch.set_num_threads(args.threads)
    device = resolve_device(args.device)
    if args.output is not None:
        _refuse_other_files(args.output)
    rows = []
    for method in args.method.split(","):
        for target in args.target.split(","):
            row = time_draws([f"method={method}", f"target={target}", *args.overrides], args.draws, device, args.rounds)
            rows.append(row)
            if not args.json:
                low, high = row["range"]
                print(
                    f"{method:>18} x {target}  NFE {row['nfe']:g}  {row['seconds']:.3f} s for {args.draws} draws "
                    f"({low:.3f} to {high:.3f})",
                    flush=True,
                )
    env = environment(device, threads=args.threads, compile=False)
    head = {"hardware": hardware(device, args.threads), "env": env, "overrides": args.overrides}
    text = json.dumps({**head, "rows": rows}, indent=1) + "\n"
    if args.output is not None:
        write_atomic(args.output, text.encode())
    if args.json:
        print(text, end="")
    return 0


def _refuse_other_files(path: Path) -> None:
    """An earlier file of draws is written anew, anything else is kept.

    Raises:
        UserError: there is a file, and it holds no times of draws.
    """
    if not path.exists():
        return
    try:
        of_draws = all("nfe" in row for row in json.loads(path.read_text(encoding="utf-8"))["rows"])
    except (ValueError, LookupError, TypeError):  # no text, no JSON, JSON of another kind
        of_draws = False
    if not of_draws:
        raise UserError(f"{path} holds no times of draws", "name another file")
