"""``execute``: do what is missing of one configuration, and nothing twice.

Resume, requeue, a repeated command and two people running the same sweep are all the same call: runs with a record
are read, runs claimed elsewhere are left alone, the rest is fitted together.
"""

from __future__ import annotations

import errno
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch

from bench import claims
from bench.config import Config
from bench.cost import fit_time
from bench.device import resolve_device
from bench.environment import environment, plugins
from bench.errors import RunFailed, UserError
from bench.files import explain_os_error
from bench.fit.parallel import Processes, processes_of
from bench.mirror.follow import following
from bench.record import new_record
from bench.registry import get
from bench.status import ENDED_WELL
from bench.store import Record, Store

Fit = Callable[[Config, Sequence[int], Store], Iterable[Record]]
"""Fits some seeds of a configuration together and gives a record for each; ``execute`` writes each as it comes."""


Retry = bool | frozenset[str]
"""Whether to fit again what is on record as failed, diverged or timed out; a set names the statuses."""


def execute(
    config: Config, *, retry: Retry = False, progress: Callable[[str], None] | None = None, fit: Fit | None = None
) -> list[Record]:
    """Records of all seeds of a configuration, fitting those that have none.

    Args:
        config: the configuration.
        retry: fit again what failed, diverged or ran out of time, or only some of these (so does ``config.retry``).
        progress: is told in a sentence what is reused, left to others and fitted.
        fit: the engine; ``bench.fit.group.fit_group`` unless given.

    Returns:
        One record per seed in the order of ``config.seeds``; ``{"status": "running", ...}`` for runs of others.

    Raises:
        RunFailed: a fit raised; a ``failed`` record with the traceback is written for each of its seeds without one,
            and seeds that are not fitted with them (``Config.batches``, groups of an interrupted fit) are done first.
        UserError: results folder not writable, disk full, corrupt record, device not there; what has no record by then
            gets none.
    """
    tell = progress or (lambda message: None)
    store = Store(config.results)
    processes = processes_of(config)
    resolve_device(config.device)  # not there: said before anything is done
    store.writable()
    torch.set_num_threads(config.threads)
    if not processes.first:
        return _help(config, store, processes, fit or _engine())
    with _claimed(config, store, retry or config.retry) as (found, todo):
        _require_fit(config, todo, processes)
        elsewhere = [seed for seed, record in found.items() if record["status"] == "running"]
        reused = len(found) - len(elsewhere)
        tell(f"{config.config_id}: {reused} reused, {len(elsewhere)} running elsewhere, {len(todo)} to fit")
        _say_stale(config, found, tell)
        fitted, failures = _fit_parts(config, todo, store, processes, fit or _engine(), tell)
    _tidy(config, store)
    if failures:
        raise failures[0]
    records = [(found | fitted)[seed] for seed in config.seeds]
    processes.tell(_Over(records))
    return records


@contextmanager
def _claimed(config: Config, store: Store, retry: Retry) -> Iterator[tuple[dict[int, Record], list[int]]]:
    """Records by seed, of runs of others one that says so, and the seeds left; these are ours within the block."""
    found = finished(config, store, config.seeds, retry=retry)
    missing = {config.run_id(seed): seed for seed in config.seeds if seed not in found}
    about = {"method": config.method["name"], "target": config.target["name"]}
    with claims.claim(store.claims, list(missing), about) as (granted, busy):
        found |= {missing[run_id]: _running(config, missing[run_id], owner) for run_id, owner in busy.items()}
        # Another process may have finished a run between our look and our claim.
        found |= finished(config, store, [missing[run_id] for run_id in granted], retry=retry)
        yield found, [seed for seed in config.seeds if seed not in found]


def _fit_parts(
    config: Config, seeds: list[int], store: Store, processes: Processes, fit: Fit, tell: Callable[[str], None]
) -> tuple[dict[int, Record], list[RunFailed]]:
    """Records of the parts that could be fitted, and what the others raised: one that fails stops no other."""
    found: dict[int, Record] = {}
    failures: list[RunFailed] = []
    for part in _parts(config, seeds, store):
        try:
            with following(config, part, store, tell):
                fitted = _fit(config, processes.tell(part), store, fit)
        except RunFailed as failure:
            if processes.size > 1:  # it has ended those that help, too
                raise
            failures.append(failure)
            continue
        found |= fitted
        if time := fit_time(fitted[part[0]]["cost"]):
            tell(f"{config.config_id}: {len(part)} fitted in {time}")
    return found, failures


def _say_stale(config: Config, found: Mapping[int, Record], tell: Callable[[str], None]) -> None:
    """Runs are known by their configuration: a plugin that has changed since is worth a word."""
    now = plugins(*(get(kind, getattr(config, kind)["name"]).obj for kind in ("method", "target")))
    made = {seed: (record.get("env") or {}).get("plugins") for seed, record in found.items()}
    if stale := {seed: files for seed, files in made.items() if files and files != now}:
        changed = [name for name in now if any(files.get(name) != now[name] for files in stale.values())] or list(now)
        tell(
            f"warning: the records of seeds {list(stale)} were made with another version of {', '.join(changed)}; "
            "raise `version` in its class to fit anew"
        )


@dataclass(frozen=True)
class _Over:
    """What the first process tells those that helped, at the end."""

    records: list[Record]


def _help(config: Config, store: Store, processes: Processes, fit: Fit) -> list[Record]:
    """Take part in the fits of the first process until it is done; its records."""
    while not isinstance(said := processes.tell(None), _Over):
        for _ in fit(config, said, store):
            pass
    return said.records


def finished(config: Config, store: Store, seeds: Sequence[int], *, retry: Retry = False) -> dict[int, Record]:
    """Records that need no work, by seed: all there are, or with ``retry`` only those that are done.

    Raises:
        UserError: a record is corrupt.
    """
    found = {}
    for seed in seeds:
        record = store.get(config.run_id(seed), config.target["name"], config.method["name"])
        if record is not None and not retried(record["status"], retry):
            found[seed] = record
    return found


def retried(status: str, retry: Retry) -> bool:
    """Whether a run with a record of this status is fitted again."""
    return status != "done" and (status in retry if isinstance(retry, frozenset) else retry)


def _require_fit(config: Config, seeds: list[int], processes: Processes) -> None:
    """Refuses a pair that does not fit; of several processes each sees it as it builds, so none is left waiting."""
    if seeds and processes.size == 1:
        from bench.fit.pair import require_fit  # imported late, as the engine

        require_fit(config, seeds[0])


def _engine() -> Fit:
    from bench.fit.group import fit_group  # imported late: reading records needs no engine

    return fit_group


def _fit(config: Config, seeds: list[int], store: Store, fit: Fit) -> dict[int, Record]:
    from bench.fit.attempts import attempts  # imported late, as the engine

    tried = dict(zip(seeds, attempts(config, seeds, store), strict=True))
    records: dict[int, Record] = {}
    try:
        for record in fit(config, seeds, store):  # evaluation may take hours: what is done is kept if it stops
            record["cost"] = {**record["cost"], "attempts": tried[record["seed"]]}
            store.put(record)
            records[record["seed"]] = record
    except UserError:
        raise
    # Whatever a method raises is a result of the benchmark: it is recorded, and the other cells of a sweep go on.
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            problem = explain_os_error(error.filename or store.root, error)
            assert problem is not None
            raise problem from error
        text = traceback.format_exc()
        env = environment(resolve_device(config.device), threads=config.threads, compile=config.compile)
        lost = [seed for seed in seeds if seed not in records]
        for seed in lost:
            cost = {"seeds_sharing": len(seeds), "attempts": tried[seed]}
            log = store.put(new_record(config, seed, "failed", env=env, cost=cost, error=text))
        raise RunFailed(
            f"{config.method['name']} on {config.target['name']} failed: {type(error).__name__}: {error}",
            f"the traceback is in {log} (`sivibench show {config.run_id(lost[-1])}`); --retry fits it again",
        ) from error
    if set(records) != set(seeds):
        raise RuntimeError(f"the engine returned records for seeds {sorted(records)} instead of {sorted(seeds)}")
    return records


def _parts(config: Config, seeds: list[int], store: Store) -> list[list[int]]:
    """Seeds that are fitted together: those of an interrupted fit continue as the group they were."""
    if not seeds:
        return []
    from bench.fit.checkpoint import split_by_group

    groups = split_by_group(store.artifacts / "checkpoints", config.config_id, seeds)
    return [part for group in groups for part in config.batches(group)]


def _tidy(config: Config, store: Store) -> None:
    """Remove what kills have left of finished runs: checkpoints that nobody will continue, claims of the dead.

    This process has no claims any more: those that stand are of others.
    """
    from bench.fit.checkpoint import saved_groups

    with suppress(UserError):  # a damaged file among them must not spoil a command that has done its work
        for checkpoint in saved_groups(store.artifacts / "checkpoints", config.config_id):
            if not any(_continued(config, store, seed, checkpoint.about()) for seed in checkpoint.seeds):
                checkpoint.discard()
    dead = [run_id for run_id in map(config.run_id, config.seeds) if claims.is_stale(store.claims / f"{run_id}.json")]
    if dead:
        with claims.claim(store.claims, dead):
            pass  # taken over and released


def _continued(config: Config, store: Store, seed: int, about: Mapping[str, Any]) -> bool:
    """Whether somebody may go on with this seed of a checkpoint that says this of itself."""
    claim = store.claims / f"{config.run_id(seed)}.json"
    if claim.exists() and not claims.is_stale(claim):
        return True
    record = finished(config, store, [seed]).get(seed)
    # A record from before the last iteration is the one that a retry is to replace; earlier code kept no time.
    return record is None or record["status"] not in ENDED_WELL or record["created"] < about.get("until", "")


def _running(config: Config, seed: int, owner: dict[str, Any]) -> Record:
    return {
        "run_id": config.run_id(seed),
        "config_id": config.config_id,
        "seed": seed,
        "method": config.method["name"],
        "target": config.target["name"],
        "status": "running",
        "claim": owner,
    }
