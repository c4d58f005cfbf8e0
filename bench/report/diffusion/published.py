"""Published values of few-step samplers: shown apart with the teacher named, never ranked with ours.

Teachers, references and sample counts differ between the papers (and from ours), so not even two published rows need be
comparable with each other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from bench.report.published import DEFAULT_PATH, by_id

METRICS = ("js_divergence", "fid", "fd_dinov2")
FEW = 20
"""Rows of more network evaluations are left out."""


@dataclass(frozen=True)
class Quoted:
    """One printed value."""

    target: str
    metric: str
    nfe: int | None
    method: str
    value: str
    """As printed."""
    teacher: str
    setting: str
    citation: str
    evidence: str
    note: str


def quoted(path: Path = DEFAULT_PATH) -> tuple[Quoted, ...]:
    """The rows of ``results/published.csv`` on few-step samplers, by metric, target, NFE and method."""
    rows = [_row(row) for row in by_id(path).values() if row["metric"] in METRICS]
    few = [row for row in rows if row.nfe is None or row.nfe <= FEW]
    return tuple(sorted(few, key=lambda r: (METRICS.index(r.metric), r.target, r.nfe or FEW + 1, r.method, r.citation)))


def _row(row: dict[str, str]) -> Quoted:
    nfe = re.search(r"NFE (\d+)|(\d+) steps?", row["setting"])
    place = f", {row['table']}" if row["table"] else ""
    return Quoted(
        target=row["target"],
        metric=row["metric"],
        nfe=int(nfe[1] or nfe[2]) if nfe else None,
        method=row["method"],
        value=row["value"],
        teacher=_teacher(row),
        setting=row["setting"],
        citation=f"{row['paper']} {row['year']}".strip() + place,
        evidence=row["evidence"].replace("_", " "),
        note=row["note"],
    )


def _teacher(row: dict[str, str]) -> str:
    """From the note (``teacher: X``, ``X teacher``, ``X checkpoint``) or the protocol; many papers do not say."""
    named = re.search(r"teacher: ([^;]+)|(?:^|; )([\w.-]+) (?:teacher|checkpoint)\b", row["note"])
    if named:
        return (named[1] or named[2]).strip()
    return "EDM" if row["protocol"].endswith("-edm") else "not recorded"
