"""One self-contained HTML page: inline style, script and SVG; nothing is loaded from anywhere."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from bench.report import cells
from bench.report.commands import command
from bench.report.curves import loss_curves, metric_curves
from bench.report.figures import palette
from bench.report.gallery import gallery
from bench.report.groups import Group, setting
from bench.report.markdown import protocols
from bench.report.overview import Overview
from bench.report.scatter import scatter
from bench.report.summary import provenance
from bench.report.table import NOT_RUN, Board, Row, Section, Tables
from bench.stats import RANK_RULE

TEMPLATES = Path(__file__).parent / "templates"
BAND = "Median over seeds; the band spans lowest to highest."


@dataclass(frozen=True)
class Illustration:
    """A figure on the page."""

    title: str
    svg: Markup
    caption: str


def make_environment() -> Environment:
    """Templates with the filters and the writers of cells that all pages share."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["pretty"] = lambda value: json.dumps(value, indent=1, sort_keys=True)
    environment.filters["code"] = _code
    environment.filters["line"] = lambda value: json.dumps(value, sort_keys=True)
    for function in ("value", "bounds", "median", "failed", "rank", "seeds", "seconds", "count", "number", "published",
                     "source"):  # fmt: skip
        environment.globals[function] = getattr(cells, function)
    environment.globals |= {"shade": _shade, "setting": _distinct, "not_run": NOT_RUN}
    return environment


def render(tables: Tables, matrix: Overview, title: str, stamp: str) -> str:
    """The page as a string; ``stamp`` tells later calls what it was made of."""
    environment = make_environment()
    pages = [
        {
            "section": section,
            "figures": _illustrations(section, f"f{index}"),
            "published": any(board.has_published for board in section.boards),
        }
        for index, section in enumerate(tables.sections)
    ]
    return environment.get_template("report.html.j2").render(
        title=title,
        stamp=stamp,
        facts=[*provenance(tables.records).lines(), *tables.notes],
        matrix=matrix,
        heading=tables.heading,
        pages=pages,
        protocols=protocols(tables.records),
        rank_rule=RANK_RULE,
        runs=[describe_run(group) for section in tables.sections for group in section.groups],
    )


def _code(text: str) -> Markup:
    """Text in which what stands between backticks is code, as it is in Markdown."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _illustrations(section: Section, prefix: str) -> list[Illustration]:
    looks, found = palette({group.label: group.method for group in section.groups}), []
    drawn = scatter(section, looks, prefix + "s")
    if drawn is not None:
        found.append(Illustration("Draws", Markup(drawn[0]), drawn[1]))
    pictures = gallery(section)
    if pictures is not None:
        caption = "Draws of the first finished seed of every configuration, as they would be saved."
        found.append(Illustration("Draws", pictures, caption))
    followed = metric_curves(section, looks, prefix + "m")
    if followed is not None:
        found.append(Illustration("Metrics during training", Markup(followed), BAND))
    losses = loss_curves(section, looks, prefix + "l")
    if losses is not None:
        caption = f"{BAND} Losses of different methods are different quantities: compare shapes, not levels."
        found.append(Illustration("Losses", Markup(losses), caption))
    return found


def _shade(row: Row, board: Board) -> str:
    """Opacity of a rank's background: full for the first, none for the last and for a row without a rank."""
    if row.rank is None:
        return "0"
    ranked = [other.rank for other in board.rows if other.rank is not None]
    return f"{0.55 * (1 - (row.rank - 1) / max(len(ranked), 1)):.2f}"


def _distinct(board: Board) -> str:
    return setting({key: value for key, value in board.distinct.items() if key != "protocol"})


def describe_run(group: Group) -> dict[str, Any]:
    """Command, seeds, commits and failures of a configuration."""
    failures = []
    for record in group.records:
        if record["status"] != "done":
            last = (record.get("error") or "").strip().splitlines()[-1:]
            at = f" at step {record['diverged_at']}" if record.get("diverged_at") is not None else ""
            failures.append(f"seed {record['seed']} {record['status']}{at}" + (f": {last[0]}" if last else ""))
    commits = {str((r.get("env") or {}).get("git") or "unknown")[:10] for r in group.records}
    return {
        "group": group,
        "command": command(group),
        "seeds": ", ".join(str(r["seed"]) for r in group.records),
        "commits": ", ".join(sorted(commits)),
        "failures": failures,
    }
