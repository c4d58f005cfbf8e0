"""How numbers and cells are written; every renderer uses these, so that all of them say the same."""

from __future__ import annotations

import math

from bench.report.published import Published
from bench.report.table import Row


def number(value: float | None, digits: int = 4) -> str:
    """``digits`` significant digits, plain where readable: 0.01234, 12.34, 1.23e-07."""
    if value is None:
        return "-"
    if value == 0 or 1e-4 <= abs(value) < 1e6:
        return f"{value:.{max(0, digits - 1 - _exponent(value))}f}"
    return f"{value:.{digits - 2}e}"


def count(value: float | None) -> str:
    """5000000 -> 5.0M."""
    if value is None:
        return "-"
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.1f}{suffix}"
    return f"{value:.0f}"


def seconds(value: float | None) -> str:
    """Seconds of one seed, or minutes and hours where those read better."""
    if value is None:
        return "-"
    if value < 120:
        return f"{value:.1f} s" if value >= 0.1 else f"{value * 1000:.0f} ms"
    return f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.1f} h"


def _decimals(row: Row) -> int | None:
    """Decimals that show two digits of the half interval; None where scientific notation is needed."""
    assert row.summary is not None
    half, mean = row.summary.half, row.summary.mean
    if not half or abs(mean) >= 1e6 or max(abs(mean), half) < 1e-4:
        return None
    return min(max(0, 1 - _exponent(half)), 8)


def value(row: Row) -> str:
    """``0.0123 ± 0.0004``; a single seed has no interval; ``-`` where there is no value."""
    if row.summary is None:
        return "-"
    decimals = _decimals(row)
    if decimals is None:
        half = "" if row.summary.half is None else f" ± {number(row.summary.half, 3)}"
        return number(row.summary.mean) + half
    return f"{row.summary.mean:.{decimals}f} ± {row.summary.half:.{decimals}f}"


def bounds(row: Row) -> str:
    """``[0.0119, 0.0127]``, the interval of the mean."""
    if row.summary is None or row.summary.low is None or row.summary.high is None:
        return "-"
    decimals = _decimals(row)
    ends = (row.summary.low, row.summary.high)
    return "[" + ", ".join(number(x) if decimals is None else f"{x:.{decimals}f}" for x in ends) + "]"


def median(row: Row) -> str:
    """The median, with as many digits as the mean."""
    if row.summary is None:
        return "-"
    decimals = _decimals(row)
    return number(row.summary.median) if decimals is None else f"{row.summary.median:.{decimals}f}"


def failed(row: Row) -> str:
    """``2/10 diverged, 1/10 failed``; empty where every seed finished."""
    return ", ".join(f"{n}/{row.total} {status}" for status, n in row.failures.items())


def rank(row: Row) -> str:
    """The rank; a dagger says that it rests on the surviving seeds only."""
    if row.rank is None:
        return "-"
    return f"{row.rank}†" if row.failures else str(row.rank)


def seeds(row: Row) -> str:
    """``4``, or ``2/4`` where not every seed has a value here."""
    return str(len(row.values)) if len(row.values) == row.total else f"{len(row.values)}/{row.total}"


def published(item: Published) -> str:
    """``0.0853 ± 0.0026 (sd of 3)``, as printed."""
    # differences of printed numbers carry binary noise; ten significant digits are more than any paper prints
    text = f"{item.value:.10g}"
    if item.spread is not None:
        runs = f" of {item.n_runs}" if item.n_runs else ""
        kind = f" ({item.spread_kind}{runs})" if item.spread_kind else ""
        text += f" ± {item.spread:g}{kind}"
    return text


def source(item: Published) -> str:
    """``kl_forward [fkl-100k], AISIVI 2025, T1; 4k its``."""
    return f"{item.quantity}, {item.citation}" + (f"; {item.setting}" if item.setting else "")


def _exponent(x: float) -> int:
    return math.floor(math.log10(abs(x))) if x else 0
