"""Add metrics to runs that are already on record, from their kept parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import torch
from torch import Tensor

from bench import claims
from bench.config import Config, build_method, build_target
from bench.device import resolve_device
from bench.environment import environment
from bench.errors import UserError
from bench.fit.layout import layouts, load
from bench.fit.members import initialise
from bench.fit.parameters import load_parameters
from bench.metrics.base import Fitted
from bench.metrics.evaluate import build, evaluate
from bench.registry import entries, get
from bench.store import Record, Store
from methods.base import Method
from targets.base import Target


def add_metrics(
    store: Store, records: Iterable[Record], names: Sequence[str], *, device: str = "cpu", tell: Callable[[str], None]
) -> tuple[int, int]:
    """Measure what finished runs lack and write it into their records.

    Args:
        store: where the records lie.
        records: finished runs; others are passed over.
        names: metrics to add; none: those of each record's target.
        device: where to compute.
        tell: hears a line per run.

    Returns:
        How many records were added to, and how many lack metrics but have no sound parameters here.

    Raises:
        UserError: unknown metric, no such device, read-only folder.
    """
    for name in names:
        get("metric", name)
    resolve_device(device)
    fits = _Fits(store, device)
    added = without = 0
    for known in records:
        if not missing(known, names):
            continue
        if why := _passed_over(known, store):
            tell(f"{known['run_id']}  passed over: {why}")
            continue
        about = {"method": known["method"], "target": known["target"]}
        with claims.claim(store.claims, [known["run_id"]], about) as (_, busy):
            if busy:
                tell(f"{known['run_id']}  passed over: another process works on it; repeat the command later")
                continue
            # again, as another process may have added to it since the records were read
            record = store.get(known["run_id"], known["target"], known["method"]) or known
            if not (lacking := missing(record, names)):
                continue
            try:
                values = load_parameters(store.parameters, record["run_id"], record["parameters_sha256"])
            except UserError as error:
                tell(f"{record['run_id']}  passed over: {_in_line(error)}")
                values = None
            if values is None:
                without += 1
                continue
            try:
                q = fits.of(record, values)
            except UserError as error:  # its data, its teacher or a library are not here
                tell(f"{record['run_id']}  passed over: {_in_line(error)}")
                continue
            metrics, protocols, skipped = evaluate(lacking, q)
            if metrics:
                store.put(_merged(record, metrics, protocols, skipped, device))
                added += 1
            tell(_told(record, metrics, skipped))
    return added, without


class _Fits:
    """What records have fitted; they come by configuration, whose target and method are built once."""

    def __init__(self, store: Store, device: str) -> None:
        self.store, self.device = store, device
        self.config_id = ""

    def of(self, record: Record, values: Mapping[str, Tensor]) -> Fitted:
        """The method with the run's parameters."""
        config = Config.of_record(record, str(self.store.root))
        if config.config_id != self.config_id:
            self.target, self.method = _build(config, self.device)
            self.config_id = config.config_id
        load(layouts(self.method, list(self.method.players())), values, self.method)
        return Fitted(self.method, self.target, record["seed"], resolve_device(self.device))


def missing(record: Record, names: Sequence[str]) -> list[str]:
    """The metrics asked for, or else the applicable ones of the target, that a finished run has no value of."""
    if record["status"] != "done":
        return []
    entry = entries("target").get(record["target"])
    asked = names or (entry.obj.metrics if entry else ())
    return [n for n in asked if not measured(record, n) and (names or n not in record["skipped_metrics"])]


def _passed_over(record: Record, store: Store) -> str:
    """Why nothing can be added to a record, whatever is asked for; empty if something can."""
    kinds: tuple[Literal["method", "target"], ...] = ("method", "target")
    for kind in kinds:
        if record[kind] not in entries(kind):
            return f"the {kind} {record[kind]!r} is not registered; if it is a plugin's, load that"
    try:
        Config.of_record(record, str(store.root))
    except UserError as error:  # made with another version of its method or target
        return _in_line(error)
    return ""


def _in_line(error: UserError) -> str:
    return str(error).replace("\n  -> ", "; ")


def _told(record: Record, metrics: dict[str, Any], skipped: dict[str, str]) -> str:
    shown = ", ".join(f"{name} {found['value']:.4g}" for name, found in metrics.items() if found["value"] is not None)
    why = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
    return f"{record['run_id']}  {record['method']} x {record['target']}  {shown or f'no value ({why})'}"


def measured(record: Record, name: str) -> bool:
    """Whether a finished run has a value of the metric by its protocol of today; it may be None, not finite."""
    found = record["metrics"].get(name)
    return found is not None and build(name, {}).measured(record["protocols"][found["protocol"]])


def _build(config: Config, device: str) -> tuple[Target, Method]:
    where, dtype = resolve_device(device), getattr(torch, config.train["dtype"])
    target = build_target(config).to(where, dtype)
    method = initialise(lambda: build_method(config, target), config.seeds)[0]
    return target, method.to(where, dtype)


def _merged(
    record: Record, metrics: dict[str, Any], protocols: dict[str, Any], skipped: dict[str, str], device: str
) -> Record:
    """The record with the new values, and who measured them."""
    env = environment(device=resolve_device(device), threads=1, compile=False)
    note = {
        "metrics": sorted({*metrics, *skipped}),
        "device": env["device"],
        "git": env.get("git"),
        "dirty": env.get("dirty"),
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    left = {name: reason for name, reason in record["skipped_metrics"].items() if name not in metrics}
    return {
        **record,
        "metrics": record["metrics"] | metrics,
        "protocols": record["protocols"] | protocols,
        "skipped_metrics": left | skipped,
        "evaluated_later": [*record.get("evaluated_later", []), note],
    }


def explain_missing(count: int) -> UserError:
    """The message for runs whose parameters are elsewhere."""
    return UserError(
        f"{count} runs lack these metrics, and their parameters are not in this results folder",
        "they are kept where the fit ran (<results>/artifacts/parameters); or delete the records and run them again",
    )
