"""The values that records hold of one metric, and why the others hold none."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from bench.store import Record


@dataclass
class Collected:
    """What some records say of one metric.

    Attributes:
        values: seed -> value.
        floors: seed -> noise floor, where the metric has one.
        failures: number of seeds by how they ended without a value.
        reasons: why finished seeds have none; each once.
    """

    values: dict[int, float] = field(default_factory=dict)
    floors: dict[int, float] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)
    reasons: list[str] = field(default_factory=list)

    def excuse(self, reason: str) -> None:
        """Add a reason."""
        if reason not in self.reasons:
            self.reasons.append(reason)


def collect(
    records: Mapping[int, Record], metric: str, refused: Callable[[Record, str], str | None], lacking: str
) -> Collected:
    """Sort records into values and reasons.

    Args:
        records: of one configuration, by seed.
        metric: its name.
        refused: why a value measured with this protocol id is not wanted, None if it is.
        lacking: what to say of a record in which the metric is not mentioned.
    """
    found = Collected()
    for seed, record in sorted(records.items()):
        if record["status"] != "done":
            found.failures[record["status"]] += 1
            continue
        if idle := record.get("idle"):
            found.excuse(f"ended before {', '.join(idle)} began to train")
        measured = (record.get("metrics") or {}).get(metric)
        if measured is None:
            found.excuse((record.get("skipped_metrics") or {}).get(metric, lacking))
        elif why := refused(record, measured["protocol"]):
            found.excuse(why)
        elif measured["value"] is None or not math.isfinite(measured["value"]):
            found.failures["not finite"] += 1
        else:
            found.values[seed] = float(measured["value"])
            if measured.get("floor") is not None:
                found.floors[seed] = float(measured["floor"])
    return found
