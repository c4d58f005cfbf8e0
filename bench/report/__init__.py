"""Reports: one table object from run records, rendered as text, Markdown, LaTeX, JSON and one HTML page.

The same records give the same bytes, in whatever order they come.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.report.pages import make_stamp, write_pages
from bench.report.table import NOTHING, About, build


def render_terminal(records: Sequence[dict[str, Any]], about: About = NOTHING) -> str:
    """Plain-text tables of run records (docs/record.md); ``about`` the sweep they belong to.

    Raises:
        UserError: two different records claim the same run.
    """
    from bench.report import terminal
    from bench.report.overview import overview

    tables = build(records, about)
    return terminal.render(tables, overview(tables))


def as_json(records: Sequence[dict[str, Any]], about: About = NOTHING) -> dict[str, Any]:
    """The tables as JSON-serialisable data."""
    from bench.report.export import as_data

    return as_data(build(records, about))


def write_report(
    records: Sequence[dict[str, Any]], folder: Path, title: str, about: About = NOTHING
) -> dict[str, Path]:
    """Write ``report.html``, ``report.md`` and ``report.tex`` into ``folder``; returns {"html": path, ...}.

    Files that this code wrote from these records are left as they are.

    Raises:
        UserError: two different records claim the same run.
    """

    def texts() -> dict[str, str]:
        # matplotlib and jinja2 are imported only where a page is written: the terminal table stays quick
        from bench.report import html, latex, markdown
        from bench.report.overview import overview

        tables = build(records, about)
        matrix = overview(tables)
        return {
            "html": html.render(tables, matrix, title, stamp),
            "md": markdown.render(tables, matrix, title),
            "tex": latex.render(matrix),
        }

    stamp = make_stamp(records, title, *about.notes, *(f"{pair}: {why}" for pair, why in about.left_out.items()))
    return write_pages(folder, "report", stamp, texts)
