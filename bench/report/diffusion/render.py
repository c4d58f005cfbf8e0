"""The comparison as text, Markdown, LaTeX and data."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from bench.report import cells
from bench.report.diffusion.published import Quoted
from bench.report.diffusion.table import Cell, Column, Comparison, Sampler, Sheet
from bench.report.latex import escape as tex
from bench.report.markdown import escape, pipe_table
from bench.report.summary import provenance
from bench.report.terminal import Grid, align
from bench.stats import RANK_RULE

READING = (
    "Mean over seeds ± half of the 95 % interval (bootstrap; Student's where that is wider, below 8 seeds: of two it "
    "is very wide); in parentheses the rank within column and NFE, where a sampler alone has none, or that there is "
    "one seed only, which is not ranked. A trained sampler has one row per setting; a letter stands for a setting "
    "written out below. Of a solver, `best of n` shows the best of the n settings on record for a column (each cell "
    "says `of n` where columns differ), chosen by the very values shown, which favours it; a setting in two "
    "lines is ranked once."
)
APART = (
    "Other teachers, references, sample counts and often feature networks than ours, and than each other's: never "
    "ranked."
)


def grid(sheet: Sheet) -> Grid:
    """Header and a line per sampler, blocks of equal NFE below each other."""
    head = ["NFE", "sampler", "", *(heading(sheet, column) for column in sheet.columns)]
    body = [
        [str(nfe), sampler.line.label, sampler.kind, *(text(sampler, cell) for cell in sampler.cells)]
        for nfe, samplers in sheet.blocks
        for sampler in samplers
    ]
    floors = ["", "noise floor", "", *(cells.number(column.floor, 3) for column in sheet.columns)]
    return [head, *body, floors] if any(column.floor is not None for column in sheet.columns) else [head, *body]


def heading(sheet: Sheet, column: Column) -> str:
    """``moons, exact teacher``; with the protocol where a problem has several columns."""
    several = sum(other.problem == column.problem for other in sheet.columns) > 1
    return f"{column.problem.label}, {column.teacher} teacher" + (f" [{column.protocol_id}]" if several else "")


def text(sampler: Sampler, cell: Cell | None) -> str:
    """``0.0123 ± 0.0004 (1) grid=quad``; why there is no value."""
    if cell is None:
        return "-"
    row = cell.row
    if row.summary is None:
        return f"- {cells.failed(row) or row.reason}"
    mark = f"({place(cell)})" if place(cell) else ""
    return " ".join(filter(None, (cells.value(row), mark, cells.failed(row), detail(sampler, cell))))


def detail(sampler: Sampler, cell: Cell) -> str:
    """``grid=quad``; ``of 12: grid=quad`` in a line that is the best of more settings in another column."""
    chosen = f"of {cell.among}" if len(sampler.choices) > 1 else ""
    return ": ".join(filter(None, (chosen, cell.setting)))


def place(cell: Cell) -> str:
    """The rank, or why a value that others are beside has none; empty where there is nothing to rank."""
    if cell.rank is not None:
        return f"{cell.rank}" + ("†" if cell.row.failures else "")
    return "most seeds lost" if cell.row.lost else "1 seed" if len(cell.row.values) == 1 else ""


def costs(comparison: Comparison) -> Grid:
    """Seconds per 1,000 draws of every sampler that has them; where machines differ they cannot be compared."""
    head, lines = ["NFE", "sampler", "", "problem", "s per 1,000 draws", "quality"], []
    for sheet in comparison.sheets:
        for nfe, samplers in sheet.blocks:
            for sampler in samplers:
                for column, cell in zip(sheet.columns, sampler.cells, strict=True):
                    if cell is not None and cell.seconds is not None and cell.row.summary is not None:
                        quality = f"{sheet.metric} {cells.value(cell.row)}"
                        name = [str(nfe), sampler.line.label, sampler.kind, column.problem.label]
                        lines.append([*name, cells.number(cell.seconds, 3), quality])
    return [head, *lines]


def published_grid(rows: tuple[Quoted, ...]) -> Grid:
    """Header and a line per published value."""
    head = ["metric", "data", "NFE", "method", "value", "teacher", "setting", "printed in", "evidence", "note"]
    lines = [
        [r.metric, r.target, "-" if r.nfe is None else str(r.nfe), r.method, r.value, r.teacher, r.setting, r.citation,
         r.evidence, r.note]
        for r in rows
    ]  # fmt: skip
    return [head, *lines]


def terminal(comparison: Comparison, rows: tuple[Quoted, ...]) -> str:
    """Plain text, without the table of costs and the published rows."""
    if not comparison.sheets:
        return "no records of few-step samplers\n"
    blocks = [f"{describe(sheet)}\n{align(grid(sheet))}" for sheet in comparison.sheets]
    blocks.append(READING + "\n" + "".join(f"{letter}: {note}\n" for letter, note in comparison.notes.items()))
    blocks.append(f"{len(rows)} published values of few-step samplers are in the pages, apart from ours.\n")
    return "\n".join(blocks)


def describe(sheet: Sheet) -> str:
    """``js_sets (nats, lower is better)``."""
    return f"{sheet.metric} ({sheet.unit + ', ' if sheet.unit else ''}{sheet.direction} is better)"


def markdown(comparison: Comparison, rows: tuple[Quoted, ...], title: str) -> str:
    """The whole comparison."""
    facts = [f"- {name}: {escape(text)}" for name, text in provenance(comparison.records).lines()]
    lines = [f"# {escape(title)}", "", *facts, "", READING, "", RANK_RULE]
    for sheet in comparison.sheets:
        lines += ["", f"## {escape(describe(sheet))}", "", *pipe_table(grid(sheet))]
    if comparison.notes:
        lines += ["", *(f"- {letter}: {escape(note)}" for letter, note in comparison.notes.items())]
    lines += ["", "## Cost of sampling", "", *pipe_table(costs(comparison))]
    lines += ["", "## Published values", "", APART, "", *pipe_table(published_grid(rows))]
    return "\n".join(lines) + "\n"


def latex(comparison: Comparison) -> str:
    """A tabular (booktabs) per metric, best rows of every NFE bold."""
    return "\n".join(_tabular(sheet) for sheet in comparison.sheets)


def _tabular(sheet: Sheet) -> str:
    head = ["NFE", "sampler", "", *(tex(heading(sheet, column)) for column in sheet.columns)]
    lines = [f"% {describe(sheet)}", r"\begin{tabular}{rll" + "r" * len(sheet.columns) + "}", r"\toprule"]
    lines.append(" & ".join(head) + r" \\")
    for nfe, samplers in sheet.blocks:
        lines.append(r"\midrule")
        for i, sampler in enumerate(samplers):
            first = str(nfe) if i == 0 else ""
            parts = [
                first,
                tex(sampler.line.label),
                tex(sampler.kind),
                *(_tex_cell(cell) for cell in sampler.cells),
            ]
            lines.append(" & ".join(parts) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _tex_cell(cell: Cell | None) -> str:
    if cell is None or cell.row.summary is None:
        return "--" if cell is None else tex(cells.failed(cell.row)) or "--"
    shown = tex(cells.value(cell.row)) + (r"$^\dagger$" if cell.row.failures else "")
    return rf"\textbf{{{shown}}}" if cell.rank == 1 else shown


def as_data(comparison: Comparison, rows: tuple[Quoted, ...]) -> dict[str, Any]:
    """JSON-serialisable."""
    return {
        "schema": 1,
        "records": asdict(provenance(comparison.records)),
        "notes": comparison.notes,
        "metrics": [_sheet_data(sheet) for sheet in comparison.sheets],
        "published": [asdict(row) for row in rows],
    }


def _sheet_data(sheet: Sheet) -> dict[str, Any]:
    found = []
    for nfe, samplers in sheet.blocks:
        for sampler in samplers:
            for column, cell in zip(sheet.columns, sampler.cells, strict=True):
                if cell is not None:
                    row = asdict(cell.row) | {"label": sampler.line.label, "rank": cell.rank}
                    row["values"] = {str(seed): value for seed, value in sorted(cell.row.values.items())}
                    about = {
                        "nfe": nfe,
                        "kind": sampler.kind,
                        "setting": cell.setting,
                        "best_of": cell.among if sampler.choices else None,
                        "problem": column.problem.label,
                    }
                    found.append(about | {"teacher": column.teacher, "seconds_per_1000_draws": cell.seconds} | row)
    return {"metric": sheet.metric, "unit": sheet.unit, "direction": sheet.direction, "cells": found}
