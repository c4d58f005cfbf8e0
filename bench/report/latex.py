"""LaTeX (booktabs): the overview, best rows bold, for a paper."""

from __future__ import annotations

from collections.abc import Iterable

from bench.report import cells
from bench.report.overview import Overview
from bench.report.table import Row

_SPECIAL = {"\\": r"\textbackslash{}", "±": r"$\pm$", "†": r"$^\dagger$", "·": r"$\cdot$"} | {
    character: "\\" + character for character in "&%$#_{}"
}


def render(matrix: Overview) -> str:
    """A tabular with methods as rows and headline metrics as columns; needs the package booktabs."""
    head = ["method", *(f"{board.problem.label}: {board.title}" for board in matrix.columns), "mean rank"]
    lines = [r"\begin{tabular}{l" + "r" * (len(head) - 1) + "}", r"\toprule", _line(map(escape, head)), r"\midrule"]
    for row in matrix.rows:
        mean_rank = "--" if row.mean_rank is None else f"{row.mean_rank:.2f} ({row.ranked} of {len(matrix.columns)})"
        shown = (_cell(cell, "*" in matrix.marks(cell)) for cell in row.cells)
        lines.append(_line([escape(row.label), *shown, mean_rank]))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def escape(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(_SPECIAL.get(character, character) for character in text)


def _cell(row: Row | None, unusual: bool) -> str:
    if row is None or row.summary is None:
        return escape(cells.failed(row)) or "--" if row else "--"
    text = escape(cells.value(row)) + (r"$^\dagger$" if row.failures else "") + ("$^*$" if unusual else "")
    return rf"\textbf{{{text}}}" if row.rank == 1 else text


def _line(parts: Iterable[str]) -> str:
    return " & ".join(parts) + r" \\"
