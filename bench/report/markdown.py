"""GitHub-flavoured Markdown, with the appendix the HTML page has but no figures."""

from __future__ import annotations

import json
from collections.abc import Iterable

from bench.report.commands import command
from bench.report.groups import Record
from bench.report.overview import Overview
from bench.report.summary import provenance
from bench.report.table import Tables
from bench.report.terminal import Grid, board_grid, describe, overview_caption, overview_grid, published_notes
from bench.stats import RANK_RULE


def render(tables: Tables, matrix: Overview, title: str) -> str:
    """The whole report as Markdown."""
    lines = [f"# {escape(title)}", "", *(f"{escape(line)}  " for line in tables.heading), ""]
    lines += [f"- {name}: {escape(text)}" for name, text in [*provenance(tables.records).lines(), *tables.notes]]
    if matrix.columns:
        grid = overview_grid(matrix)
        lines += ["", "## Overview", "", overview_caption(grid).capitalize(), "", *pipe_table(grid)]
        lines += ["", *(f"[{number}] {escape(reason)}  " for number, reason in enumerate(matrix.reasons, 1))]
        lines += [
            "",
            *(f"{escape(note)}  " for note in matrix.notes),
            "",
            RANK_RULE,
            "",
            "† ranked on the seeds that finished.",
        ]
    for section in tables.sections:
        lines += ["", f"## {escape(section.problem.label)}"]
        for board in section.boards:
            lines += ["", f"### {escape(describe(board))}", ""]
            if board.protocol_id:
                lines += [f"Protocol `{board.protocol_id}`.", ""]
            lines += pipe_table(board_grid(board))
            notes = [*board.absent, *published_notes(board)]
            lines += ([""] if notes else []) + [f"- {escape(note)}" for note in notes]
    if tables.sections:
        lines += ["", "## Protocols", ""]
        lines += [f"- `{key}`: `{json.dumps(text, sort_keys=True)}`" for key, text in protocols(tables.records).items()]
        lines += ["", "## Commands", ""]
        for section in tables.sections:
            for group in section.groups:
                lines += [f"{escape(group.label)} on {escape(section.problem.label)} (`{group.config_id}`):"]
                lines += ["", "```sh", command(group), "```", ""]
    return "\n".join(lines).rstrip() + "\n"


def protocols(records: Iterable[Record]) -> dict[str, dict[str, object]]:
    """Protocol id -> its content, for every value and curve in the report, sorted by metric."""
    found: dict[str, dict[str, object]] = {}
    for record in records:
        found |= record.get("protocols") or {}
    return dict(sorted(found.items(), key=lambda item: (str(item[1].get("metric")), item[0])))


def pipe_table(grid: Grid) -> list[str]:
    """A pipe table; the content of cells cannot break it."""
    rows = ["| " + " | ".join(escape(cell) or " " for cell in row) + " |" for row in grid]
    return [rows[0], "|" + "|".join(" --- " for _ in grid[0]) + "|", *rows[1:]]


def escape(text: str) -> str:
    """Text that Markdown shows as it is."""
    for character in "\\|*_`<>":
        text = text.replace(character, "\\" + character)
    return " ".join(text.split())
