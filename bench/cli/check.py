"""``sivibench check``."""

from __future__ import annotations

import argparse

from bench.check import check_store
from bench.cli.shared import present_store_of, print_json


def check(args: argparse.Namespace) -> int:
    """All problems of the results folder; 1 if any is an error."""
    store = present_store_of(args)
    problems = check_store(store)
    if args.json:
        print_json([vars(problem) for problem in problems])
    else:
        for problem in problems:
            print(problem)
        errors = sum(problem.level == "error" for problem in problems)
        print(f"{len(store.files())} records: {errors} errors, {len(problems) - errors} warnings")
    return int(any(problem.level == "error" for problem in problems))
