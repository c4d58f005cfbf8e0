"""Numbers printed in papers (``results/published.csv``), found for a method, target and metric of the suite.

Only rows marked ``comparable=yes`` are ever returned.  They were measured with the paper's protocol, not with ours:
a report prints them in a column of their own and never ranks them.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from bench.errors import UserError
from bench.report import catalog

DEFAULT_PATH = Path(__file__).resolve().parents[2] / "results" / "published.csv"


@dataclass(frozen=True)
class Published:
    """One printed number and where it stands."""

    value: float
    spread: float | None
    spread_kind: str
    n_runs: int | None
    citation: str
    arxiv: str
    quantity: str
    """Metric and protocol in the paper's terms, for example ``kl_forward [fkl-100k]``."""
    setting: str


CHOICES = {
    "comparable": ("yes", "no", "protocol_differs"),
    "direction": ("lower", "higher"),
    "spread_kind": ("", "sd", "se", "pm"),
}
"""What a verdict reads of a row; docs/reproduction.md says what it means."""


@lru_cache(maxsize=8)
def rows(path: Path = DEFAULT_PATH) -> tuple[dict[str, str], ...]:
    """The comparable rows of the file; none where the file is absent (an installed wheel may lack it)."""
    return tuple(row for row in by_id(path).values() if row["comparable"] == "yes")


@lru_cache(maxsize=8)
def by_id(path: Path = DEFAULT_PATH) -> dict[str, dict[str, str]]:
    """All rows of the file by id, those that are not comparable among them; empty where the file is absent.

    Raises:
        UserError: a value that a verdict would misread.
    """
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as handle:
        found = {row["id"]: row for row in csv.DictReader(handle)}
    for identifier, row in found.items():
        for column, choices in CHOICES.items():
            if row[column] not in choices:
                known = ", ".join(choice or "nothing" for choice in choices)
                raise UserError(f"{path}: {identifier} has {column} {row[column]!r}", f"choose from: {known}")
        for column in ("value", "spread", "n_runs"):
            if not _is_number(row[column], empty=column != "value"):
                raise UserError(f"{path}: {identifier} has {column} {row[column]!r}", "give a number, as printed")
    return found


def _is_number(text: str, *, empty: bool) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return empty and not text


def find(method: str, target: str, metric: str, path: Path | None = None) -> tuple[Published, ...]:
    """Comparable published values of a registered method, target and metric, in the order of the file.

    The link is made by attributes of the registered classes: ``Method.paper_name`` and ``Metric.published_as``
    (see ``catalog.MetricInfo``).
    """
    paper_method = catalog.paper_name(method)
    info = catalog.metric_info(metric)
    return tuple(
        _published(row)
        for paper_metric, protocol in info.published_as
        for row in rows(path or DEFAULT_PATH)
        if (row["method"], row["target"]) == (paper_method, target)
        and (row["metric"], row["protocol"]) == (paper_metric, protocol)
        and info.published_setting in ("", row["setting"])
    )


def _published(row: dict[str, str]) -> Published:
    return Published(
        value=float(row["value"]),
        spread=float(row["spread"]) if row["spread"] else None,
        spread_kind=row["spread_kind"],
        n_runs=int(float(row["n_runs"])) if row["n_runs"] else None,
        citation=f"{row['paper']} {row['year']}, {row['table']}",
        arxiv=row["arxiv"],
        quantity=f"{row['metric']} [{row['protocol']}]",
        setting=row["setting"],
    )
