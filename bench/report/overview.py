"""The front page: methods x problems, by headline metric and rank.  Raw values are never averaged over problems."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bench.report.table import Board, Row, Tables

ORDER = (
    "Methods ranked on at least half of the targets come first, by mean rank; mean ranks over different targets do not "
    "compare."
)


@dataclass(frozen=True)
class OverviewRow:
    """One method; ``cells`` has a Row (or None) per column, ``mean_rank`` averages over the ``ranked`` columns."""

    label: str
    cells: tuple[Row | None, ...]
    mean_rank: float | None
    ranked: int


@dataclass(frozen=True)
class Overview:
    """Columns are the headline boards, one per problem and protocol."""

    columns: tuple[Board, ...]
    rows: tuple[OverviewRow, ...]

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why cells are empty, each once, in the order of the rows; tables name them by number, from 1."""
        empty = (cell for row in self.rows for cell in row.cells if cell is not None and cell.summary is None)
        return tuple(dict.fromkeys(cell.reason for cell in empty if cell.reason and not cell.failures))


def overview(tables: Tables) -> Overview:
    """The matrix of headline results.

    Configurations that carry the same label share a row; a method with several configurations on one problem has a
    row for each of them.  Rows are sorted as ``ORDER`` says.
    """
    columns = tuple(
        board for section in tables.sections for board in section.boards if board.metric == section.boards[0].metric
    )
    by_column = [{row.label: row for row in board.rows} for board in columns]
    configured = {row.label for board in columns for row in board.rows if row.config_id}
    rows = []
    for label in configured:
        cells = tuple(found.get(label) for found in by_column)
        ranks = [cell.rank for cell in cells if cell is not None and cell.rank is not None]
        rows.append(OverviewRow(label, cells, sum(ranks) / len(ranks) if ranks else None, len(ranks)))
    rows.sort(key=lambda r: (2 * r.ranked < len(columns), r.mean_rank or math.inf, r.label))
    return Overview(columns, tuple(rows))
