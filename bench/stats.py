"""Uncertainty over seeds: bootstrap intervals, and ranks that admit ties.  Same numbers in, same numbers out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import stats

LEVEL = 0.95
RESAMPLES = 4000
FEW = 8

Values = Sequence[float] | np.ndarray

RANK_RULE = (
    "Rows are sorted by mean, best first. The best row opens a group; every following row that is not separable from "
    "the row that opened the group shares its rank; the first separable row opens the next group, whose rank is one "
    "plus the number of rows above it. Two rows are separable when both the bootstrap and the Student-t 95 % interval "
    "of the difference of their means exclude 0: over paired differences where at least half of the seeds are common "
    "(evaluation noise is shared by seed; their mean must have the sign of the rows' order), else over independent "
    "seeds. Where a floor is an error of the value, they must also differ by more than half of the larger floor. A row "
    "with one seed has no rank, as nothing is known of its noise, nor has one that lost more than half of its seeds, "
    "which stands below, nor one that stands alone. Every row is compared with the one that opened its group only, at "
    "the 5 % level and without correction for the number of rows."
)


@dataclass(frozen=True)
class Summary:
    """Mean over seeds with its 95 % interval, and median; a bound is None where there is only one seed."""

    n: int
    mean: float
    low: float | None
    high: float | None
    median: float

    @property
    def half(self) -> float | None:
        """Half the width of the interval of the mean."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def summarise(values: Sequence[float]) -> Summary:
    """Summary of one value per seed.

    Raises:
        ValueError: no values, or a value that is not finite (count those apart, as failures).
    """
    x = _array(values)
    low, high = interval(x) if len(x) > 1 else (None, None)
    return Summary(len(x), float(x.mean()), low, high, float(np.median(x)))


def interval(values: Values, level: float = LEVEL) -> tuple[float, float]:
    """Expanded percentile bootstrap interval of the mean over seeds; of few, what holds it and Student's.

    The plain percentile interval is too short for few seeds; its tail is therefore moved out to
    Phi(-sqrt(n / (n - 1)) t_{n-1}) (Hesterberg 2015, "What teachers should know about the bootstrap", section 5.2).
    Below ``FEW`` seeds resampled means cannot leave the range of the values, so that the interval also holds
    Student's.  The resampling indices depend on n alone, so the same values give the same interval everywhere.

    Args:
        values: one number per seed, at least two.
        level: nominal coverage.
    """
    # sorted, because a set of seeds has no order and the interval must not have one either
    x = np.sort(_array(values))
    means = x[_indices(len(x))].mean(axis=1)
    tail = _expanded_tail(len(x), level)
    low, high = np.quantile(means, [tail, 1 - tail])
    if len(x) < FEW:
        half = stats.t.ppf((1 + level) / 2, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x))
        low, high = min(low, x.mean() - half), max(high, x.mean() + half)
    return float(low), float(high)


def separable(a: Mapping[int, float], b: Mapping[int, float]) -> bool:
    """Whether the means of two rows (seed -> value) differ beyond seed noise, by ``RANK_RULE``.

    Both intervals must agree because each alone errs: with four seeds the bootstrap calls equal methods different one
    time in eight, and with skewed values the Student interval is the weaker one.
    """
    if len(a) < 2 or len(b) < 2:
        return False
    common = sorted(set(a) & set(b))
    if len(common) >= 2 and 2 * len(common) >= max(len(a), len(b)):
        difference = np.array([a[seed] - b[seed] for seed in common])
        if difference.mean() * (np.mean(list(a.values())) - np.mean(list(b.values()))) <= 0:
            return False  # the seeds that only one of them has turn the order round
        if np.ptp(difference) == 0.0:
            return bool(difference[0] != 0.0)
        p_value = stats.ttest_1samp(difference, 0.0).pvalue
        low, high = interval(difference.tolist())
    else:
        x, y = (np.sort(_array(list(row.values()))) for row in (a, b))
        if np.ptp(x) == 0.0 and np.ptp(y) == 0.0:
            return bool(x[0] != y[0])
        p_value = stats.ttest_ind(x, y, equal_var=False).pvalue
        means = x[_indices(len(x))].mean(axis=1) - y[_indices(len(y), stream=1)].mean(axis=1)
        tail = _expanded_tail(min(len(x), len(y)), LEVEL)
        low, high = np.quantile(means, [tail, 1 - tail])
    return bool(p_value < 1 - LEVEL and not low <= 0.0 <= high)


def ranks(
    rows: Mapping[str, Mapping[int, float]], direction: str = "lower", blur: Mapping[str, float] | None = None
) -> dict[str, int]:
    """Rank of every row by ``RANK_RULE``; rows without values are left out.

    Args:
        rows: name -> seed -> value.
        direction: ``lower`` or ``higher`` is better.
        blur: name -> difference of means below which the row cannot be told from another.
    """
    blur = blur or {}
    sign = -1.0 if direction == "higher" else 1.0
    means = {name: sign * float(np.mean(_array(list(row.values())))) for name, row in rows.items() if row}
    order = sorted(means, key=lambda name: (means[name], name))
    found: dict[str, int] = {}
    leader = ""
    for position, name in enumerate(order, start=1):
        near = leader and abs(means[leader] - means[name]) <= max(blur.get(leader, 0.0), blur.get(name, 0.0))
        if not leader or (not near and separable(rows[leader], rows[name])):
            leader = name
            found[name] = position
        else:
            found[name] = found[leader]
    return found


@lru_cache(maxsize=64)
def _indices(n: int, stream: int = 0) -> np.ndarray:
    return np.random.default_rng([n, stream]).integers(0, n, size=(RESAMPLES, n))


def _expanded_tail(n: int, level: float) -> float:
    quantile = stats.t.ppf((1 + level) / 2, n - 1)
    return float(stats.norm.cdf(-math.sqrt(n / (n - 1)) * quantile))


def _array(values: Values) -> np.ndarray:
    x = np.asarray(values, dtype=np.float64)
    if x.size == 0 or not np.isfinite(x).all():
        raise ValueError(f"need at least one value, all finite; got {values!r}")
    return x
