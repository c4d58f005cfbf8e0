"""``sivibench evaluate``."""

from __future__ import annotations

import argparse
import sys

from bench.cli.shared import print_json, records_of, teller
from bench.evaluate import add_metrics, explain_missing


def evaluate(args: argparse.Namespace) -> int:
    """Add metrics to finished runs; 1 if some lack them and their parameters are not here."""
    store, records, code = records_of(args)
    added, without = add_metrics(store, records, args.metrics, device=args.device, tell=teller(args))
    if args.json:
        print_json({"added": added, "without_parameters": without})
    else:
        print(f"{added} records added to")
    if without:
        print(f"error: {explain_missing(without)}", file=sys.stderr)
    return max(code, int(without > 0))
