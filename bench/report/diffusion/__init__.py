"""``sivibench report diffusion``: few-step samplers at equal numbers of network evaluations, as text and as pages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.report.diffusion import render
from bench.report.diffusion.published import quoted
from bench.report.diffusion.table import compare
from bench.report.groups import Record
from bench.report.pages import make_stamp, write_pages


def render_terminal(records: Iterable[Record], metrics: Sequence[str] = ()) -> str:
    """Plain-text tables, one per metric.

    Raises:
        UserError: two different records claim the same run.
    """
    return render.terminal(compare(records, metrics), quoted())


def as_json(records: Iterable[Record], metrics: Sequence[str] = ()) -> dict[str, Any]:
    """The same as JSON-serialisable data, published rows included."""
    return render.as_data(compare(records, metrics), quoted())


def write_report(records: Iterable[Record], folder: Path, title: str, metrics: Sequence[str] = ()) -> dict[str, Path]:
    """Write ``diffusion.html``, ``diffusion.md`` and ``diffusion.tex`` into ``folder``; returns {"html": path, ...}.

    Raises:
        UserError: two different records claim the same run.
    """

    def texts() -> dict[str, str]:
        from bench.report.diffusion.html import page  # matplotlib and jinja2 only where a page is written

        comparison, rows = compare(records, metrics), quoted()
        return {
            "html": page(comparison, rows, title, stamp),
            "md": render.markdown(comparison, rows, title),
            "tex": render.latex(comparison),
        }

    records = list(records)
    stamp = make_stamp(records, title, *metrics)
    return write_pages(folder, "diffusion", stamp, texts)
