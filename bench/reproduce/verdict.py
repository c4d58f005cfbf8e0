"""Whether a number of ours agrees with the printed one: the whole rule, and nothing else.

    agrees  if  |ours - published| <= max(2 s, floor, r)

with ours the mean over seeds, s the larger of the two standard deviations over runs, floor the noise floor of ours
(where the floor is an error and not the value of a perfect q) and r half a unit of the last printed digit.  A printed
spread of 0.00 stands for half of its last digit; a standard error is turned into a standard deviation where the number
of runs is printed.  Otherwise ours is ``better`` or ``worse`` by the metric's direction.

No verdict is given where the two do not measure the same thing (``protocol unclear``), where they are not meant to
(``not judged``: times, and switches of a row that is judged), where the budget was cut (``reduced budget``), or from
fewer than ``LEAST_SEEDS`` seeds.  Where more than half of the seeds diverged ours is ``worse``, whatever the rest say.

The rule is generous where runs scatter: two means can agree by it and yet differ by more than chance, which
``difference`` tells where the paper prints spread and number of runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from statistics import fmean, stdev

from scipy.stats import t as student_t

LEAST_SEEDS = 3
DIFFERENT = 0.01
"""Means differ below this p-value."""


class Verdict(StrEnum):
    """What is said of a cell."""

    AGREES = "agrees"
    BETTER = "better"
    WORSE = "worse"
    UNCLEAR = "protocol unclear"
    NOT_JUDGED = "not judged"
    REDUCED = "reduced budget"
    FEW = "too few seeds"
    NOT_RUN = "not run"
    NO_NUMBER = "no published value"


JUDGED = (Verdict.AGREES, Verdict.BETTER, Verdict.WORSE)


@dataclass(frozen=True)
class Printed:
    """A number as the paper prints it.

    Attributes:
        value: the number.
        rounding: half a unit of its last digit.
        sd: standard deviation over runs, None where no spread is printed.
        comparable: whether it was measured as ours is.
        runs: number of runs behind it, None where it is not printed.
    """

    value: float
    rounding: float = 0.0
    sd: float | None = None
    comparable: bool = True
    runs: int | None = None


def half_unit(text: str) -> float:
    """Half a unit of the last printed digit: "0.597" -> 0.0005, "74528" -> 0.5, "5.3e-64" -> 5e-66."""
    exponent = Decimal(text).as_tuple().exponent
    assert isinstance(exponent, int)
    return 0.5 * 10.0**exponent


def printed(row: dict[str, str]) -> Printed:
    """From a row of published.csv."""
    sd = None
    if row["spread"]:
        sd = max(float(row["spread"]), half_unit(row["spread"]))
        if row["spread_kind"] == "se" and row["n_runs"]:
            sd *= math.sqrt(float(row["n_runs"]))
    runs = int(row["n_runs"]) if row["n_runs"] else None
    return Printed(float(row["value"]), half_unit(row["value"]), sd, row["comparable"].strip() == "yes", runs)


def tolerance(published: Printed, values: Sequence[float], floor: float | None) -> float:
    """The largest difference that still agrees."""
    ours = stdev(values) if len(values) > 1 else 0.0
    return max(2 * max(published.sd or 0.0, ours), floor or 0.0, published.rounding)


def difference(published: Printed, values: Sequence[float]) -> float | None:
    """p-value of Welch's test that ours has the mean of the printed one; None where that cannot be told."""
    runs = published.runs or 0
    if published.sd is None or runs < 2 or len(values) < LEAST_SEEDS:
        return None
    gap = abs(fmean(values) - published.value) - published.rounding
    ours, theirs = stdev(values) ** 2 / len(values), published.sd**2 / runs
    if gap <= 0 or ours + theirs == 0:
        return None if gap > 0 else 1.0
    freedom = (ours + theirs) ** 2 / (ours**2 / (len(values) - 1) + theirs**2 / (runs - 1))
    return float(2 * student_t.sf(gap / math.sqrt(ours + theirs), freedom))


def judge(
    published: Printed | None,
    values: Sequence[float],
    *,
    direction: str,
    floor: float | None = None,
    diverged: int = 0,
    full: bool = True,
    doubt: bool = False,
    meant: bool = True,
) -> Verdict:
    """The verdict on a cell.

    Args:
        published: the printed number, if any.
        values: ours, one per seed that finished.
        direction: ``lower`` or ``higher`` is better.
        floor: noise floor of ours, if it is an error of the value.
        diverged: seeds that ended without a value because the fit or the value was not finite.
        full: whether the budget is the paper's.
        doubt: whether the table doubts that the protocols are the same.
        meant: whether ours is meant to be the printed number.
    """
    if not values and not diverged:
        return Verdict.NOT_RUN
    if published is None:
        return Verdict.NO_NUMBER
    if not meant:
        return Verdict.NOT_JUDGED
    if not published.comparable or doubt:
        return Verdict.UNCLEAR
    if not full:
        return Verdict.REDUCED
    if len(values) + diverged < LEAST_SEEDS:
        return Verdict.FEW
    if diverged > len(values):
        return Verdict.WORSE
    if len(values) < LEAST_SEEDS:
        return Verdict.FEW
    gain = fmean(values) - published.value
    if abs(gain) <= tolerance(published, values, floor):
        return Verdict.AGREES
    return Verdict.BETTER if (gain > 0) == (direction == "higher") else Verdict.WORSE
