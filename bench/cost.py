"""How long a fit took, from the ``cost`` of its record, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def fit_time(cost: Mapping[str, Any]) -> str:
    """``47.7 s, 14 % of it curve points``: of all seeds together, without start, compilation and final metrics.

    The share is left out where no curve was followed, or where the record does not tell; empty without a time.
    """
    seconds, curve = cost.get("seconds"), cost.get("curve_seconds") or 0.0
    if seconds is None:
        return ""
    share = f", {100 * curve / (seconds + curve):.0f} % of it curve points" if curve else ""
    return f"{seconds + curve:.1f} s{share}"
