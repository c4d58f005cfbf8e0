"""What is wrong with a results folder: every problem with the file it concerns and a level."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bench import claims, registry
from bench.config.config import Config, build_method, build_target
from bench.config.identity import config_id
from bench.environment import unknown_commits
from bench.errors import UserError
from bench.files import TEMPORARY
from bench.metrics.base import protocol_hash
from bench.record import read_record
from bench.status import STATUSES
from bench.store import Store
from targets.fetch import local_only


@dataclass(frozen=True)
class Problem:
    """Something to look at; warnings do not make a result wrong."""

    level: Literal["error", "warning"]
    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.level}: {self.path}: {self.message}"


def check_store(store: Store) -> list[Problem]:
    """All problems of a results folder: records, leftovers of interrupted writes, claims nobody keeps up."""
    problems: list[Problem] = []
    places: dict[str, list[Path]] = defaultdict(list)
    sources: dict[str, dict[str, Path]] = defaultdict(dict)
    reasons: dict[tuple[str, str], str | None] = {}
    for path in store.files():
        try:
            record = read_record(path)
        except UserError as error:
            problems.append(Problem("error", str(path), str(error).splitlines()[0]))
            continue
        places[record["run_id"]].append(path)
        env = record["env"]
        if env.get("git") and not env.get("dirty"):
            sources[str(env["git"])].setdefault(str(env.get("source")), path)
        problems += [Problem(level, str(path), message) for level, message in _record_problems(record, path, reasons)]
    for run_id, paths in places.items():
        if len(paths) > 1:
            problems.append(Problem("error", str(paths[1]), f"run {run_id} is also in {paths[0]}"))
    for sha, found in sources.items():
        for path in list(found.values())[1:]:
            message = f"commit {sha[:10]} was run with differing package files (see `source`)"
            problems.append(Problem("warning", str(path), message))
    for sha in unknown_commits(sources):
        message = f"commit {sha[:10]} is not in this repository (rebased?); `source` still tells which code it was"
        problems.append(Problem("warning", str(next(iter(sources[sha].values()))), message))
    for path in sorted([*store.runs.rglob(f".*{TEMPORARY}"), *store.artifacts.glob(f"checkpoints/.*{TEMPORARY}")]):
        problems.append(Problem("warning", str(path), "left over from an interrupted write; it can be deleted"))
    for path in claims.stale(store.claims):
        problems.append(Problem("warning", str(path), "stale claim; the next run takes it over"))
    return problems


def _record_problems(
    record: dict[str, Any], path: Path, reasons: dict[tuple[str, str], str | None]
) -> Iterator[tuple[Literal["error", "warning"], str]]:
    if record["status"] not in STATUSES:
        yield "error", f"unknown status {record['status']!r}"
    if record["run_id"] != path.stem:
        yield "error", f"the file name does not match its run id {record['run_id']}"
    pair = (record["target"], record["method"])
    if pair != (path.parent.parent.name, path.parent.name):
        yield "error", f"the folder does not match target {record['target']} and method {record['method']}"
    if pair != (record["config"]["target"]["name"], record["config"]["method"]["name"]):
        yield "error", f"the configuration is not of target {record['target']} and method {record['method']}"
    if (record["status"] == "diverged") != (record["diverged_at"] is not None):
        yield "error", f"status {record['status']}, but diverged_at is {record['diverged_at']}"
    recomputed = config_id(record["config"])
    if (record["config_id"], record["run_id"]) != (recomputed, f"{recomputed}-s{record['seed']}"):
        yield "error", f"the configuration hashes to {recomputed}, not to the ids stored"
    yield from _metric_problems(record, reasons)
    if record["env"].get("dirty"):
        yield "warning", "made with uncommitted changes of the package"


def _metric_problems(
    record: dict[str, Any], reasons: dict[tuple[str, str], str | None]
) -> Iterator[tuple[Literal["error", "warning"], str]]:
    metrics, protocols, followed = record["metrics"], record["protocols"], record["curve"]["metrics"]
    for name, measured in [*metrics.items(), *((f"{name} (curve)", curve) for name, curve in followed.items())]:
        if measured["protocol"] not in protocols:
            yield "error", f"{name}: protocol {measured['protocol']} is not among the record's protocols"
    for name, curve in [*record["curve"]["loss"].items(), *followed.items()]:
        if len(curve["step"]) != len(curve["value"]):
            yield "error", f"the curve of {name} has {len(curve['step'])} steps and {len(curve['value'])} values"
    for key, protocol in protocols.items():
        if (found := protocol_hash(protocol)) != key:
            yield "error", f"protocol {key} hashes to {found}"
    if record["status"] != "done":
        return
    skipped, asked = record["skipped_metrics"], record["config"]["eval"]["metrics"]
    if asked is not None:
        yield from (("error", f"metric {name} is missing") for name in asked if name not in {**metrics, **skipped})
        return
    if not metrics and not skipped:
        yield "error", "done, but without any metric"
        return
    entry = registry.entries("target").get(record["target"])
    for name in getattr(entry.obj, "metrics", ()) if entry else ():  # the list may have grown since
        if name in metrics or name in skipped:
            continue
        key = record["config_id"], name
        if key not in reasons:
            reasons[key] = _inapplicable(record, name)
        if reasons[key] is None:
            yield "warning", f"metric {name} is missing; `sivibench evaluate {name}` adds it where parameters are kept"


def _inapplicable(record: dict[str, Any], name: str) -> str | None:
    """Why a metric cannot be computed for a record's configuration; None if it can, or if nobody here can tell."""
    known = registry.entries("metric").get(name)
    kinds = [registry.entries(kind).get(record[kind]) for kind in ("method", "target")]
    if known is None or None in kinds:
        return None
    try:
        config = Config.of_record(record, "")
        with local_only():
            target = build_target(config)
            method = build_method(config, target)
    # A teacher or data that are not here, another version, an edited record: then the classes must do, of which most
    # metrics ask no more.
    except (UserError, TypeError, ValueError, KeyError):
        method, target = (entry.obj.__new__(entry.obj) for entry in kinds if entry)
    try:
        reason: str | None = known.obj().applies(method, target)
    except AttributeError:  # of an object that could not be built
        return None
    return reason
