"""What a record looks like, so that whoever reads one can rely on it (``docs/record.md``)."""

from __future__ import annotations

from types import NoneType
from typing import Any

ANY = "*"
"""Stands for every key of an object."""

_PERHAPS_NUMBER = (int, float, NoneType)
_CURVE = {"step": [int], "value": [_PERHAPS_NUMBER]}

RECORD: dict[str, Any] = {
    "schema": int,
    "run_id": str,
    "config_id": str,
    "seed": int,
    "method": str,
    "target": str,
    "status": str,
    "config": {"method": {"name": str}, "target": {"name": str}, "train": dict, "eval": {"metrics": (list, NoneType)}},
    "metrics": {ANY: {"value": _PERHAPS_NUMBER, "floor": _PERHAPS_NUMBER, "protocol": str}},
    "protocols": {ANY: {"metric": str}},
    "skipped_metrics": {ANY: str},
    "curve": {"loss": {ANY: _CURVE}, "metrics": {ANY: _CURVE | {"protocol": str}}},
    "diverged_at": (int, NoneType),
    "samples": (list, NoneType),
    "parameters_sha256": (str, NoneType),
    "cost": {ANY: _PERHAPS_NUMBER},
    "env": dict,
    "error": (str, NoneType),
    "created": str,
}
"""Objects with the keys they must have, lists by their items, the rest by type; more keys are allowed."""


def misfit(value: Any, shape: Any = RECORD, where: str = "it") -> str | None:
    """The first place where ``value`` differs from ``shape``, in words; None if there is none."""
    kind = type(shape) if isinstance(shape, dict | list) else shape
    if not isinstance(value, kind):
        return f"{where} is {'null' if value is None else type(value).__name__}"
    inner: list[tuple[str, Any, Any]] = []
    if isinstance(shape, list):
        inner = [(where, item, shape[0]) for item in value]
    elif isinstance(shape, dict):
        names = value if ANY in shape else shape
        lacking = [name for name in names if name not in value]
        if lacking:
            return f"{where} lacks {', '.join(lacking)}"
        inner = [
            (name if where == "it" else f"{where}.{name}", value[name], shape.get(name, shape.get(ANY)))
            for name in names
        ]
    return next((found for place, item, part in inner if (found := misfit(item, part, place)) is not None), None)
