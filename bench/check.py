"""What is wrong with a results folder: every problem with the file it concerns and a level."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bench import claims, registry
from bench.config.identity import config_id
from bench.errors import UserError
from bench.files import TEMPORARY
from bench.record import SCHEMA, STATUSES, read_record
from bench.store import Store


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
    for path in store.files():
        try:
            record = read_record(path)
        except UserError as error:
            problems.append(Problem("error", str(path), str(error).splitlines()[0]))
            continue
        places[record["run_id"]].append(path)
        env = record.get("env") or {}
        if env.get("git") and not env.get("dirty"):
            sources[env["git"]].setdefault(str(env.get("source")), path)
        problems += [Problem(level, str(path), message) for level, message in _record_problems(record, path)]
    for run_id, paths in places.items():
        if len(paths) > 1:
            problems.append(Problem("error", str(paths[1]), f"run {run_id} is also in {paths[0]}"))
    for sha, found in sources.items():
        for path in list(found.values())[1:]:
            message = f"commit {sha[:10]} was run with differing package files (see `source`)"
            problems.append(Problem("warning", str(path), message))
    for path in sorted(store.runs.rglob(f".*{TEMPORARY}")):
        problems.append(Problem("warning", str(path), "left over from an interrupted write; it can be deleted"))
    for path in claims.stale(store.claims):
        problems.append(Problem("warning", str(path), "stale claim; the next run takes it over"))
    return problems


def _record_problems(record: dict[str, Any], path: Path) -> Iterator[tuple[Literal["error", "warning"], str]]:
    if record.get("schema") != SCHEMA:
        yield "error", f"schema {record.get('schema')} instead of {SCHEMA}"
        return
    if record["status"] not in STATUSES:
        yield "error", f"unknown status {record['status']!r}"
    if record["run_id"] != path.stem:
        yield "error", f"the file name does not match its run id {record['run_id']}"
    if (record["target"], record["method"]) != (path.parent.parent.name, path.parent.name):
        yield "error", f"the folder does not match target {record['target']} and method {record['method']}"
    recomputed = config_id(record.get("config") or {})
    if (record.get("config_id"), record["run_id"]) != (recomputed, f"{recomputed}-s{record['seed']}"):
        yield "error", f"the configuration hashes to {recomputed}, not to the ids stored"
    yield from _metric_problems(record)
    if (record.get("env") or {}).get("dirty"):
        yield "warning", "made with uncommitted changes of the package"


def _metric_problems(record: dict[str, Any]) -> Iterator[tuple[Literal["error", "warning"], str]]:
    metrics, protocols = record.get("metrics") or {}, record.get("protocols") or {}
    followed = (record.get("curve") or {}).get("metrics") or {}
    for name, measured in [*metrics.items(), *((f"{name} (curve)", curve) for name, curve in followed.items())]:
        if measured.get("protocol") not in protocols:
            yield "error", f"{name}: protocol {measured.get('protocol')} is not among the record's protocols"
    for key, protocol in protocols.items():
        digest = hashlib.sha256(json.dumps(protocol, sort_keys=True).encode()).hexdigest()[:8]
        if digest != key:
            yield "error", f"protocol {key} hashes to {digest}"
    if record["status"] != "done":
        return
    skipped = record.get("skipped_metrics") or {}
    asked = record["config"]["eval"].get("metrics")
    level: Literal["error", "warning"] = "error"
    if asked is None:  # the target's own list, which may have grown since
        entry = registry.entries("target").get(record["target"])
        asked, level = (getattr(entry.obj, "metrics", ()) if entry else ()), "warning"
        if not metrics and not skipped:
            yield "error", "done, but without any metric"
            return
    for name in asked:
        if name not in metrics and name not in skipped:
            yield level, f"metric {name} is missing"
