"""``sivibench run`` and ``sivibench sweep``."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from dataclasses import replace
from pathlib import Path

from bench.cli.parser import retry_of
from bench.cli.shared import describe, print_json, teller, to_stderr
from bench.config import Config, compose
from bench.config.overrides import parse, tuned_file
from bench.errors import RunFailed
from bench.fit.interrupt import listening
from bench.fit.parallel import processes_of
from bench.launch.options import refuse_options, require_slurm, split_options
from bench.plan.expand import Sweep, sweep_of
from bench.run import execute, finished
from bench.status import FAILED
from bench.store import Store
from bench.sweep import run_sweep


def run(args: argparse.Namespace) -> int:
    """One configuration; 1 if a run failed."""
    refuse_options(args.overrides)
    config = compose(args.overrides)
    if args.results:
        config = replace(config, results=args.results)
    if processes_of(config).first:
        to_stderr(headline(config))
    try:
        with listening(signal.SIGINT, signal.SIGTERM):
            records = execute(config, retry=args.retry, progress=to_stderr)
    except RunFailed:
        if args.json:
            print_json(list(finished(config, Store(config.results), config.seeds).values()))
        raise
    if not processes_of(config).first:
        return 0
    if args.json:
        print_json(records)
    else:
        for record in records:
            print(describe(record))
    return int(any(record["status"] in FAILED for record in records))


def headline(config: Config) -> str:
    """One line: what is fitted to what, and whose settings these are before the command line's."""
    names, given = [], {override.key_or_group for override in parse(config.overrides)}
    for kind, values in (("method", config.method), ("target", config.target)):
        names.append(values["name"] + ("" if kind in given else f" (the default {kind})"))
    tuned = tuned_file(config.method["name"], config.target["name"], config.overrides)
    settings = f"settings of {tuned.relative_to(tuned.parents[2])}" if tuned else "the method's own defaults"
    return f"{config.config_id}: {' x '.join(names)}, {settings}"


def sweep_named(name: str, overrides: list[str]) -> tuple[str | Sweep, list[str]]:
    """A sweep of a file with overrides on top; or one whose single line are the overrides, the name among them."""
    if "=" not in name or Path(name).is_file():
        return name, overrides
    where, rest = split_options([name, *overrides])
    return sweep_of([shlex.join(rest)]), where


def sweep(args: argparse.Namespace) -> int:
    """A sweep; 1 if anything failed."""
    name, overrides = sweep_named(args.name, args.overrides)
    if args.watch:
        require_slurm("--watch", overrides)
    outcome = run_sweep(
        name,
        overrides,
        jobs=args.jobs,
        dry_run=args.dry_run,
        retry=retry_of(args.retry),
        results=args.results,
        tell=teller(args),
    )
    ended_well = True
    if args.watch and not args.dry_run:
        from bench.cli.watch import tell_end, watch

        stream = sys.stderr if args.json else sys.stdout
        outcome = replace(outcome, plan=watch(outcome.plan, stream))
        ended_well = tell_end(outcome.plan, stream)
    if args.json:
        print_json(outcome.as_dict())
    return int((outcome.failed or not ended_well) and not args.dry_run)
