"""What a sweep consists of, what of it is done and what cannot be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from bench import claims
from bench.config import Composer, Config, Unfit, build_target, canonical_json, check_needs, hydra_loader
from bench.plan.expand import Sweep, expand, load_sweep
from bench.plan.pace import Paces, pace_of
from bench.run import Retry, finished, retried
from bench.status import STATUSES
from bench.store import Record, Store

if TYPE_CHECKING:
    from targets.base import Target


@dataclass(frozen=True)
class Cell:
    """One configuration of a sweep and the records it has already."""

    config: Config
    records: dict[int, Record]
    running: tuple[int, ...] = ()

    @property
    def method(self) -> str:
        return str(self.config.method["name"])

    @property
    def target(self) -> str:
        return str(self.config.target["name"])

    def todo(self, *, retry: Retry = False) -> list[int]:
        """Seeds to fit; those running elsewhere among them, since their process may yet die.

        Args:
            retry: fit again what failed, diverged or ran out of time, or only some of these (so does ``config.retry``).
        """
        again = retry or self.config.retry
        kept = {seed for seed, record in self.records.items() if not retried(record["status"], again)}
        return [seed for seed in self.config.seeds if seed not in kept]

    def counts(self) -> dict[str, int]:
        """Number of seeds by status, ``running`` and ``missing`` among them."""
        found = dict.fromkeys((*STATUSES, "running", "missing"), 0)
        for seed in self.config.seeds:
            status = self.records[seed]["status"] if seed in self.records else "missing"
            # a run that is done is claimed while a metric is added to it
            found["running" if seed in self.running and status != "done" else status] += 1
        return found


@dataclass(frozen=True)
class Plan:
    """An expanded sweep."""

    sweep: Sweep
    store: Store
    cells: list[Cell]
    skipped: list[tuple[str, str, str]]
    """(method, target, reason) of cells whose method does not fit the target."""

    def runs(self) -> Iterator[tuple[str, Record | None]]:
        """Run ids and their records."""
        for cell in self.cells:
            for seed in cell.config.seeds:
                yield cell.config.run_id(seed), cell.records.get(seed)


def make_plan(name: str | Sweep, overrides: Sequence[str] = (), results: Path | str | None = None) -> Plan:
    """Expand and compose every cell, so that a mistake shows before anything runs.

    Args:
        name: a sweep of conf/sweep, the path of a YAML file, or a sweep itself.
        overrides: overrides that win over the file's.
        results: results folder; else that of the file, else that of the configuration.

    Raises:
        UserError: any mistake in the file or the overrides, or a corrupt record of one of the cells.
    """
    sweep = name if isinstance(name, Sweep) else load_sweep(name)
    targets: dict[str, Target | None] = {}
    fitting, skipped = [], []
    for config in _configs(sweep, overrides, results):
        if reason := misfit(config, targets):
            skipped.append((config.method["name"], config.target["name"], reason))
        else:
            fitting.append(config)
    return plan_fitting(sweep, fitting, results, skipped)


def misfit(config: Config, targets: dict[str, Target | None]) -> str:
    """Why the method cannot be fitted to the target; empty if it can, or if the target's data are not here.

    Args:
        targets: those built so far, added to; None where one cannot be built, as without its data: such cells fail
            when they run.
    """
    key = canonical_json(config.target)
    if key not in targets:
        try:
            targets[key] = build_target(config)
        except Exception:  # whatever a plugin raises is its own runs' failure, not the sweep's
            targets[key] = None
    try:
        if (target := targets[key]) is not None:
            check_needs(config, target)
    except Unfit as reason:
        return str(reason).splitlines()[0]
    return ""


def plan_fitting(
    sweep: Sweep,
    configs: Sequence[Config],
    results: Path | str | None = None,
    skipped: Sequence[tuple[str, str, str]] = (),
) -> Plan:
    """What is done of configurations that fit their targets.

    Raises:
        UserError: a corrupt record of one of the cells.
    """
    store = Store(results or sweep.results or (configs[0].results if configs else "results"))
    return Plan(sweep, store, _cells(configs, store), list(skipped))


def _configs(sweep: Sweep, overrides: Sequence[str], results: Path | str | None) -> list[Config]:
    """One configuration per cell, seeds of equal configurations united, in the order of the file."""
    with hydra_loader() as loader:
        lines = [list(expand(line, overrides, loader)) for line in sweep.overrides]
    compose = Composer()
    by_pair: dict[tuple[str, str], dict[str, Config]] = {}
    for combinations in lines:
        of_line: dict[tuple[str, str], dict[str, Config]] = {}
        for combination in combinations:
            config = compose(combination)
            config = replace(config, results=str(results or sweep.results or config.results))
            method, target = config.method["name"], config.target["name"]
            if any(fnmatch(f"{method}/{target}", pattern) for pattern in sweep.exclude):
                continue
            _unite(of_line.setdefault((method, target), {}), config)
        if sweep.replace:
            by_pair |= of_line
            continue
        for pair, configs in of_line.items():
            for config in configs.values():
                _unite(by_pair.setdefault(pair, {}), config)
    return [config for configs in by_pair.values() for config in configs.values()]


def _unite(configs: dict[str, Config], config: Config) -> None:
    """Add a configuration, or its seeds to the equal one there is."""
    known = configs.get(config.config_id)
    seeds = sorted({*known.seeds, *config.seeds}) if known else config.seeds
    configs[config.config_id] = replace(config, seeds=seeds)


def refresh(plan: Plan) -> Plan:
    """The plan with the records and the running processes there are now."""
    return replace(plan, cells=_cells([cell.config for cell in plan.cells], plan.store))


def _cells(configs: Sequence[Config], store: Store) -> list[Cell]:
    busy = claims.standing(store.claims)
    return [
        Cell(
            config,
            finished(config, store, config.seeds),
            running=tuple(seed for seed in config.seeds if config.run_id(seed) in busy),
        )
        for config in configs
    ]


def longest_first(cells: list[Cell], paces: Paces) -> list[Cell]:
    """Cells by estimated time, unknown ones first: a long cell should not be the last one running."""

    def seconds(cell: Cell) -> float:
        known = pace_of(cell.config, paces)
        return known.estimate(cell.config) if known else float("inf")

    return sorted(cells, key=seconds, reverse=True)
