"""What a W&B run shows of a record: plain data, no client."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

Row = tuple[int, dict[str, float]]
"""A step (iteration) and what is known at it."""


def rows(curve: Mapping[str, Any]) -> list[Row]:
    """The history: losses as ``loss/<player>`` and followed metrics as ``metric/<name>``, one row per step.

    Args:
        curve: the ``curve`` of a record.
    """
    at: dict[int, dict[str, float]] = {}
    for kind, prefix in (("loss", "loss"), ("metrics", "metric")):
        for name, line in (curve.get(kind) or {}).items():
            for step, value in zip(line["step"], line["value"], strict=True):
                if value is not None and value == value:  # a frozen member or a resting player has NaN
                    at.setdefault(int(step), {})[f"{prefix}/{name}"] = float(value)
    return sorted(at.items())


def about(record: Mapping[str, Any]) -> dict[str, Any]:
    """What names a run: id, configuration, method, target, seed."""
    return {key: record[key] for key in ("run_id", "config_id", "seed", "method", "target", "config")}


def settings(about: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of ``wandb.init`` that identify the run; every attempt of a run has the same ones."""
    return {
        "id": about["run_id"],
        "name": f"{about['method']}-{about['target']}-s{about['seed']}",
        "group": about["config_id"],
        "job_type": about["target"],
        "tags": [about["method"], about["target"]],
        "config": {**about["config"], "seed": about["seed"], "config_id": about["config_id"]},
    }


def summary(record: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the runs table: status, ``final/<metric>``, ``floor/<metric>``, ``cost/...``, where it was made."""
    found: dict[str, Any] = {"status": record["status"], "created": record["created"]}
    for name, measured in (record.get("metrics") or {}).items():
        for key, prefix in (("value", "final"), ("floor", "floor")):
            if measured.get(key) is not None:
                found[f"{prefix}/{name}"] = measured[key]
    found |= {f"cost/{key}": value for key, value in (record.get("cost") or {}).items() if value is not None}
    kept = ("git", "dirty", "device", "device_name", "host", "torch")
    found |= {f"env/{key}": value for key, value in (record.get("env") or {}).items() if key in kept}
    if record.get("diverged_at") is not None:
        found["diverged_at"] = record["diverged_at"]
    if record.get("error"):
        found["error"] = record["error"][-4000:]
    return found


def table(record: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Columns and lines of the table of final metrics, skipped ones with their reason."""
    lines = [
        [name, measured.get("value"), measured.get("floor"), measured.get("protocol"), ""]
        for name, measured in (record.get("metrics") or {}).items()
    ]
    lines += [[name, None, None, None, reason] for name, reason in (record.get("skipped_metrics") or {}).items()]
    return ["metric", "value", "floor", "protocol", "skipped"], lines


def digest(record: Mapping[str, Any]) -> str:
    """Changes whenever anything in the record does."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
