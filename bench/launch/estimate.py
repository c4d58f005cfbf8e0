"""How long a batched run may take, from what is on record of the same method and target."""

from __future__ import annotations

from collections.abc import Iterable

from bench.launch.group import Group
from bench.record import glance
from bench.store import Store

Pace = dict[tuple[str, str], float]
"""(method, target) -> seconds per iteration of a batched run, whatever the number of its seeds."""


def pace(store: Store) -> Pace:
    """The latest pace of each method on each target."""
    found: Pace = {}
    for path in store.files():
        fields = glance(path, ("method", "target", "cost"))
        cost = fields.get("cost")
        if isinstance(cost, dict) and cost.get("seconds") and cost.get("iterations"):
            found[fields["method"], fields["target"]] = cost["seconds"] / cost["iterations"]
    return found


def describe_cost(groups: Iterable[Group], paces: Pace, *, gpus: int, side_by_side: int) -> str:
    """The time of batched runs in a sentence.

    Args:
        groups: what is to be done.
        paces: from ``pace``.
        gpus: of a job; 0 counts hours of jobs.
        side_by_side: processes that share a job.
    """
    seconds, unknown, number = 0.0, 0, 0
    for group in groups:
        number += 1
        each = paces.get((group.config.method["name"], group.config.target["name"]))
        seconds += (each or 0.0) * group.config.train["iterations"]
        unknown += each is None
    unit = "GPU-hours" if gpus else "job-hours"
    hours = seconds / 3600 * max(gpus, 1) / side_by_side
    if number and unknown == number:
        return f"no past record to estimate the {unit} from"
    return f"about {hours:.3g} {unit}" + (f", {unknown} batched runs without a past record not counted" * bool(unknown))
