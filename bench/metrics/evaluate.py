"""From metric names to the fields of a run record (``docs/record.md``)."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from bench.errors import UserError
from bench.metrics.base import Fitted, Metric, protocol_hash
from bench.registry import get
from targets.base import Unsupported

log = logging.getLogger("sivibench")

Overrides = Mapping[str, Mapping[str, Any]]


def build(name: str, arguments: Mapping[str, Any]) -> Metric:
    """The metric called ``name`` with some protocol arguments changed.

    Raises:
        UserError: no such metric, or no such argument.
    """
    entry = get("metric", name)
    for key in arguments:
        if key not in entry.parameters:
            raise UserError(f"metric {name!r} has no argument {key!r}", f"choose from: {', '.join(entry.parameters)}")
    return entry.obj(**arguments)


@torch.no_grad()
def evaluate(
    names: Iterable[str], fitted: Fitted, overrides: Overrides | None = None
) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """Measure ``fitted`` by each metric named.

    Args:
        names: registered metrics.
        fitted: one seed's q beside its target.
        overrides: per metric, protocol arguments to change, for example ``{"js_grid": {"mixture": 2000}}`` for a
            cheaper value along a curve (its protocol id differs); entries for metrics not in ``names`` are not used.

    Returns:
        ``metrics``, ``protocols`` and ``skipped_metrics`` of the record.  A metric that does not apply is only in the
        last, with the reason; so is one that raised.  One that came out non-finite has the value None (JSON has no NaN)
        and a reason too.

    Raises:
        UserError: no such metric, or no such protocol argument.
    """
    metrics: dict[str, Any] = {}
    protocols: dict[str, Any] = {}
    skipped: dict[str, str] = {}
    for name in names:
        metric = build(name, (overrides or {}).get(name, {}))
        reason = metric.applies(fitted.method, fitted.target)
        if reason is not None:
            skipped[name] = reason
            continue
        try:
            measured = metric(fitted)
        except Unsupported as lacking:  # found out only by asking, for example too few reference draws
            skipped[name] = str(lacking)
            continue
        except UserError:
            raise
        except Exception as error:  # one metric must not cost the others their values, nor the fit its record
            skipped[name] = f"failed: {type(error).__name__}: {error}"
            log.exception("metric %s failed", name)
            continue
        if not math.isfinite(measured.value):
            skipped[name] = f"the value is not finite ({measured.value})"
        protocol = {**metric.protocol(), **measured.against}
        identifier = protocol_hash(protocol)
        metrics[name] = {"value": _finite(measured.value), "floor": _finite(measured.floor), "protocol": identifier}
        if measured.error is not None:
            metrics[name]["error"] = _finite(measured.error)
        protocols[identifier] = protocol
    return metrics, protocols, skipped


def _finite(x: float | None) -> float | None:
    return None if x is None or not math.isfinite(x) else x
