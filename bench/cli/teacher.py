"""``sivibench teacher``: train a teacher and publish its weights."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

from bench.cli.parser import print_json
from bench.teacher import configuration, names, train


def teacher(args: argparse.Namespace) -> int:
    """Train what is missing of one teacher and publish it; without a name, list what can be trained."""
    if args.name is None:
        print_json(names()) if args.json else print("\n".join(names()))
        return 0
    config = configuration(args.name, args.overrides)
    if args.results:
        config = replace(config, results=args.results)
    paths = train(config, tell=lambda message: print(message, file=sys.stderr, flush=True))
    if args.json:
        print_json([str(path) for path in paths])
    return 0
