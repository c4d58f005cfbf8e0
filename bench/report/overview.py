"""The front page: methods x problems, by headline metric and rank.  Raw values are never averaged over problems."""

from __future__ import annotations

from dataclasses import dataclass

from bench.report.table import Board, Row, Tables


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


def overview(tables: Tables) -> Overview:
    """The matrix of headline results.

    Configurations that carry the same label share a row; a method with several configurations on one problem has a
    row for each of them.  Rows are sorted by how many problems they were ranked on, then by mean rank.
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
    rows.sort(key=lambda r: (-r.ranked, r.mean_rank or 0.0, r.label))
    return Overview(columns, tuple(rows))
