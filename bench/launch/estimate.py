"""How long batched runs may take, in words."""

from __future__ import annotations

from collections.abc import Iterable

from bench.launch.group import Group
from bench.plan.pace import Paces, pace_of


def describe_cost(groups: Iterable[Group], paces: Paces, *, gpus: int, side_by_side: int) -> str:
    """The time of batched runs in a sentence.

    Args:
        groups: what is to be done.
        paces: from ``bench.plan.pace.pace``.
        gpus: of a job; 0 counts hours of jobs.
        side_by_side: processes that share a job's batched runs; those that all of them train together take them all.
    """
    seconds, unknown, number, foreign = 0.0, 0, 0, False
    for group in groups:
        number += 1
        known = pace_of(group.config, paces)
        if known is None:
            unknown += 1
        else:
            seconds += known.estimate(group.config) / (1 if group.together else side_by_side)
            foreign |= gpus > 0 and not known.device.startswith("cuda")
    unit = "GPU-hours" if gpus else "job-hours"
    if number and unknown == number:
        return f"no past record to estimate the {unit} from"
    said = f"about {seconds / 3600 * max(gpus, 1):.3g} {unit}"
    said += " (at the pace of a CPU: no record from a GPU)" * foreign
    return said + (f", {unknown} batched runs without a past record not counted" * bool(unknown))
