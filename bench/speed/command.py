"""``sivibench speed``: seed-iterations per second for method x target x seeds x mode."""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch

from bench.config import compose
from bench.device import device_name, resolve_device
from bench.environment import environment
from bench.errors import UserError
from bench.speed.measure import Variant, measure, variants


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the subcommand."""
    parser.add_argument("--method", default="ksivi,sivism", help="methods, comma separated")
    parser.add_argument("--target", default="banana,blr_breast_cancer", help="targets, comma separated")
    parser.add_argument("--seeds", default="1,10", help="numbers of seeds trained together, comma separated")
    parser.add_argument("--modes", default="eager,compile", help="eager (traced graph), compile")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or auto")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds")
    parser.add_argument("--seconds", type=float, default=2.0, help="time per variant and round")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("overrides", nargs="*", help="further overrides, for example method.bandwidth=bisection")


def main(args: argparse.Namespace) -> int:
    """Measure and print; one table per method and target."""
    torch.set_num_threads(args.threads)
    modes = args.modes.split(",")
    if unknown := sorted(set(modes) - {"eager", "compile"}):
        raise UserError(f"unknown mode {', '.join(unknown)}", "choose from: eager, compile")
    device = resolve_device(args.device)
    rows: list[dict[str, Any]] = []
    hardware = f"{device_name(device)}, {args.threads} thread(s), torch {torch.__version__}"
    if not args.json:
        print(hardware)
    for method in args.method.split(","):
        for target in args.target.split(","):
            config = compose([f"method={method}", f"target={target}", *args.overrides])
            found = variants(config, device, _counts(args.seeds), modes)
            measure(found, device, rounds=args.rounds, seconds=args.seconds)
            rows += (cell := [_row(method, target, v, found[0]) for v in found])
            if not args.json:
                _print(method, target, cell, args.overrides)
    if args.json:
        env = environment(device, threads=args.threads, compile="compile" in modes)
        print(json.dumps({"hardware": hardware, "env": env, "overrides": args.overrides, "rows": rows}, indent=1))
    return 0


def _counts(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1:
        raise UserError(f"--seeds {text!r} is not a list of positive numbers", "for example --seeds 1,10")
    return counts


def _row(method: str, target: str, variant: Variant, baseline: Variant) -> dict[str, Any]:
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
    }


def _print(method: str, target: str, rows: list[dict[str, Any]], overrides: list[str]) -> None:
    operations = " ".join(f"{name}={kind}" for name, kind in rows[-1]["operations"].items())
    print(f"\n{method} x {target} {' '.join([*overrides, operations])}")
    print(f"{'mode':<9}{'seeds':>6}{'ms/seed-it':>12}{'(min-max)':>18}{'seed-it/s':>12}{'x plain':>9}{'set-up s':>10}")
    for row in rows:
        low, high = row["ms_range"]
        print(
            f"{row['mode']:<9}{row['seeds']:>6}{row['ms_per_seed_iteration']:>12.3f}{f'({low:.3f}-{high:.3f})':>18}"
            f"{row['seed_iterations_per_second']:>12.0f}{row['times_faster_than_plain']:>9.2f}{row['setup_seconds']:>10.1f}"
        )
