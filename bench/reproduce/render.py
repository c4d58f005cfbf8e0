"""A compared table as text, Markdown, LaTeX and data."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.files import write_atomic
from bench.report import cells as written
from bench.report.latex import escape as latex_escape
from bench.report.markdown import escape, pipe_table
from bench.report.terminal import Grid, align
from bench.reproduce.compare import Compared, progress
from bench.reproduce.run import Result
from bench.reproduce.verdict import JUDGED, Verdict


def grid(result: Result) -> Grid:
    """Header and one line per cell; columns nobody fills are left out."""
    head = ["row", "column", "published", "ours", "95 % interval", "seeds", "failed", "floor", "verdict", "note"]
    lines = [head] + [_line(cell) for cell in result.cells]
    keep = [i for i, name in enumerate(head) if name not in ("failed", "floor", "note") or any(r[i] for r in lines[1:])]
    return [[row[i] for i in keep] for row in lines]


def _line(cell: Compared) -> list[str]:
    summary = cell.summary
    interval = "-"
    if summary is not None and summary.low is not None and summary.high is not None:
        interval = f"[{written.number(summary.low)}, {written.number(summary.high)}]"
    failed = ", ".join(f"{n} {status}" for status, n in sorted(cell.failures.items()))
    switch = cell.spec.switch and f"a switch: {cell.spec.switch}; the printed number is judged in another row"
    note = "; ".join(filter(None, (cell.reason, cell.remark, cell.spec.doubt, switch, cell.spec.note)))
    return [
        cell.spec.row,
        cell.spec.column,
        published(cell),
        written.number(summary.mean) if summary else "-",
        interval,
        f"{len(cell.values)}/{cell.wanted}",
        failed,
        written.number(cell.floor, 3) if cell.floor is not None else "",
        cell.verdict.value,
        note,
    ]


def published(cell: Compared) -> str:
    """``2.0913 ± 0.0026 (sd of 3)`` as printed; a relative time as a ratio."""
    if cell.row is None or cell.published is None:
        return "-"
    if cell.spec.relative_to:
        return f"{cell.published.value:.2f}"
    text = cell.row["value"]
    if cell.row["spread"]:
        runs = f" of {cell.row['n_runs']}" if cell.row["n_runs"] else ""
        text += f" ± {cell.row['spread']} ({cell.row['spread_kind']}{runs})"
    return text


def summary_line(results: Iterable[Result]) -> str:
    """The verdicts of comparable cells with a full-budget run, counted one by one, and how many cells have none."""
    total: Counter[str] = Counter()
    for result in results:
        total.update(progress(result.cells))
    return (
        f"{total['measured']} of {total['cells']} cells are measured "
        f"({total['absent']} more are of what the suite lacks); "
        f"of {total['judged']} comparable cells with a full-budget run {total['agree']} agree "
        f"({total['agree_but_differ']} by a spread only: the means differ), {total['better']} are better, "
        f"{total['worse']} worse; {total['comparable'] - total['judged']} of {total['comparable']} comparable cells "
        "that the suite can run have none"
    )


def text(result: Result) -> str:
    """For a terminal."""
    return f"{heading(result)}\n{align(grid(result))}" + "".join(f"* {note}\n" for note in result.table.notes)


def heading(result: Result) -> str:
    """``kpg-table3: NLL of target draws (KPG, ..., Table 3), at 10 % of the iterations``."""
    cut = "" if result.budget == 1 else f", at {result.budget:.3g} of the paper's iterations"
    return f"{result.table.name}: {result.table.title} ({result.table.paper}){cut}"


def listing(results: Sequence[Result]) -> str:
    """One line per table: how complete it is."""
    return align(_counts(results)) + summary_line(results) + "\n"


def overview(results: Sequence[Result]) -> str:
    """``listing`` in Markdown."""
    line = summary_line(results)
    return "\n".join([*pipe_table(_counts(results)), "", f"{line[0].upper()}{line[1:]}."]) + "\n"


def _counts(results: Sequence[Result]) -> Grid:
    counted = ("cells", "measured", "comparable", "agree", "better", "worse")
    lines = [["table", *counted, "title"]]
    for result in results:
        count = progress(result.cells)
        differ = count["agree_but_differ"]
        shown = {**count, "agree": f"{count['agree']}" + f" ({differ} by a spread only)" * bool(differ)}
        lines.append([result.table.name, *(str(shown[key]) for key in counted), result.table.title])
    return lines


def markdown(result: Result) -> str:
    """A section with the table and its notes; a table without any value is one line."""
    on_record = any(cell.values or cell.failures for cell in result.cells)
    table = pipe_table(grid(result)) if on_record else [f"{len(result.cells)} cells, nothing on record."]
    parts = [f"### {escape(heading(result))}", "", *table, ""]
    parts += [f"- {escape(note)}" for note in result.table.notes]
    return "\n".join(parts).rstrip() + "\n"


def latex(result: Result) -> str:
    """A tabular (booktabs) with the paper's rows and columns: ours, the published value below it in parentheses."""
    columns, rows = result.table.columns, result.table.rows
    found = {(cell.spec.row, cell.spec.column): cell for cell in result.cells}
    lines = [r"\begin{tabular}{l" + "r" * len(columns) + "}", r"\toprule"]
    lines += [" & ".join(["", *map(latex_escape, columns)]) + r" \\", r"\midrule"]
    for row in rows:
        parts = [_latex_cell(found[row, column]) if (row, column) in found else "" for column in columns]
        lines.append(" & ".join([latex_escape(row), *parts]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _latex_cell(cell: Compared) -> str:
    ours = "--"
    if cell.summary is not None:
        half = cell.summary.half
        ours = latex_escape(
            written.number(cell.summary.mean) + ("" if half is None else f" ± {written.number(half, 2)}")
        )
    # a dagger marks what has no verdict, so that nobody reads agreement into it
    mark = "" if cell.verdict in JUDGED or cell.summary is None else r"$^\dagger$"
    mark += r"$^{\downarrow}$" if cell.verdict is Verdict.WORSE else ""
    printed = "" if cell.published is None else f" ({latex_escape(published(cell).split(' (')[0])})"
    return ours + mark + printed


def data(result: Result) -> dict[str, Any]:
    """JSON-serialisable."""
    return {
        "table": result.table.name,
        "title": result.table.title,
        "paper": result.table.paper,
        "budget": result.budget,
        "notes": list(result.table.notes),
        "progress": progress(result.cells),
        "cells": [_cell_data(cell) for cell in result.cells],
    }


def _cell_data(cell: Compared) -> dict[str, Any]:
    return {
        "row": cell.spec.row,
        "column": cell.spec.column,
        "metric": cell.spec.metric,
        "published_id": cell.spec.published,
        "published": asdict(cell.published) if cell.published else None,
        "values": {str(seed): value for seed, value in sorted(cell.values.items())},
        "summary": asdict(cell.summary) if cell.summary else None,
        "failures": dict(cell.failures),
        "floor": cell.floor,
        "verdict": cell.verdict.value,
        "config_id": cell.config_id,
        "reason": cell.reason,
        "remark": cell.remark,
        "doubt": cell.spec.doubt,
        "note": cell.spec.note,
    }


def write_between_marks(path: Path, sections: dict[str, str]) -> None:
    """Put each section between ``<!-- table:NAME -->`` and ``<!-- /table:NAME -->``; text outside the marks stays.

    A file that lacks the marks of a section gets it at its end; a file that does not exist is made.

    Raises:
        UserError: it is no text, or cannot be written.
    """
    body = _text_of(path) if path.exists() else "# Reproduction\n"
    for name, section in sections.items():
        first, last = f"<!-- table:{name} -->", f"<!-- /table:{name} -->"
        block = f"{first}\n{section.rstrip()}\n{last}"
        pattern = re.compile(re.escape(first) + ".*?" + re.escape(last), re.DOTALL)
        body = pattern.sub(lambda _: block, body) if pattern.search(body) else f"{body.rstrip()}\n\n{block}\n"  # noqa: B023
    write_atomic(path, body.encode())


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} holds no text in UTF-8", "name another file") from error
