"""The record of one run: what ``docs/record.md`` describes, made, written and read."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.config.config import Config
from bench.errors import UserError
from bench.shape import misfit
from bench.status import STATUSES

SCHEMA = 1


def new_record(config: Config, seed: int, status: str, *, env: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A record with every top-level key, in the documented order.

    Args:
        config: the configuration of the run.
        seed: its seed.
        status: one of ``bench.status.STATUSES``.
        env: from ``bench.environment.environment``.
        fields: ``metrics``, ``protocols``, ``skipped_metrics``, ``curve``, ``diverged_at``, ``idle``,
            ``samples``, ``images``, ``parameters_sha256``, ``cost`` and ``error``; what is left out is empty or null.

    Raises:
        ValueError: unknown status or field.
    """
    if status not in STATUSES:
        raise ValueError(f"unknown status {status!r}")
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "run_id": config.run_id(seed),
        "config_id": config.config_id,
        "seed": seed,
        "method": config.method["name"],
        "target": config.target["name"],
        "status": status,
        "config": config.identity,
        "metrics": {},
        "protocols": {},
        "skipped_metrics": {},
        "curve": {"loss": {}, "metrics": {}},
        "diverged_at": None,
        "idle": [],
        "samples": None,
        "images": None,
        "parameters_sha256": None,
        "cost": {},
        "env": env,
        "error": None,
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    unknown = set(fields) - set(record)
    if unknown:
        raise ValueError(f"unknown record fields: {', '.join(sorted(unknown))}")
    return record | fields


def read_record(path: Path) -> dict[str, Any]:
    """Read a record.

    Raises:
        UserError: the file is not a record of this schema, or cannot be read; the message names it.
    """
    hint = "delete the file (the run is then done again) or restore it from git"
    try:
        record = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise UserError(f"corrupt record {path}: {error}", hint) from error
    except OSError as error:
        raise UserError(f"cannot read the record {path}: {error.strerror}", "check the file's permissions") from error
    schema = record.get("schema") if isinstance(record, dict) else None
    if isinstance(schema, int) and schema != SCHEMA:
        raise UserError(f"record {path} has schema {schema}, this version reads {SCHEMA}", "move it away")
    wrong = misfit(record)
    if wrong is not None:
        raise UserError(f"corrupt record {path}: {wrong}", hint)
    return record


def glance(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    """Some top-level values of a record, without reading (or checking) the rest; what cannot be read is absent."""
    found: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        for line in path.read_text(encoding="utf-8").splitlines():
            name, _, value = line.lstrip("{").partition(": ")
            if name.strip('"') in keys:
                found[name.strip('"')] = json.JSONDecoder().raw_decode(value)[0]
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
