"""``sivibench features``."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.cli.shared import print_json, to_stderr
from bench.features.train import train


def features(args: argparse.Namespace) -> int:
    """Train a classifier by its recipe and say how it compares with the recorded one."""
    found = train(args.name, Path(args.out) if args.out else None, tell=to_stderr)
    if args.json:
        print_json(found)
        return 0
    print(f"accuracy: train {found['accuracy']['train']:.4f}, test {found['accuracy']['test']:.4f}")
    if found["same"]:
        print("the recorded weights, bit for bit")
    else:
        print(f"not the recorded weights: a parameter differs by {found['largest_difference']:.3g}")
    return 0
