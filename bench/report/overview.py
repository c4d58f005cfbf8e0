"""The front page: methods x problems, by headline metric and rank.  Raw values are never averaged over problems."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from bench.report import catalog
from bench.report.groups import Group
from bench.report.standing import STANDING, UNUSUAL, deviations, standing
from bench.report.table import NOT_RUN, Board, Row, Tables, ranks

_ORDER = (
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
    """Columns are the headline boards, one per problem and protocol, of the rows that stand here and their ranks."""

    columns: tuple[Board, ...]
    rows: tuple[OverviewRow, ...]
    notes: tuple[str, ...]
    """How to read the order and the choice of rows."""
    others: Mapping[str, int]
    """config_id -> further configurations of its method on the same problem."""
    unusual: Collection[str]
    """config_ids of those that stand for a method without having its settings for the target."""

    def marks(self, cell: Row | None) -> str:
        """What a cell says of the configuration in it: ``* +2``."""
        if cell is None:
            return ""
        others = self.others.get(cell.config_id, 0)
        return " ".join(["*"] * (cell.config_id in self.unusual) + [f"+{others}"] * bool(others))

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why cells are empty but for ``NOT_RUN``, each once, as the rows come; tables name them by number, from 1."""
        empty = (cell for row in self.rows for cell in row.cells if cell is not None and cell.summary is None)
        found = dict.fromkeys(cell.reason for cell in empty if cell.reason and not cell.failures)
        return tuple(reason for reason in found if reason != NOT_RUN)


def overview(tables: Tables) -> Overview:
    """The matrix of headline results.

    A method has one row, its cell on a problem the configuration that stands for it (``STANDING``), ranked among those
    of the others.  Where the records are of one method alone, configurations have the rows: those that carry the same
    label share one.
    """
    alone = len({group.method for section in tables.sections for group in section.groups}) == 1
    columns, others, unusual = list[Board](), dict[str, int](), set[str]()
    for section in tables.sections:
        boards = [board for board in section.boards if board.metric == section.boards[0].metric]
        if not alone:
            chosen = standing(section.groups)
            boards = [_one_row_each(board, {group.config_id for group in chosen.values()}) for board in boards]
            counts = Counter(group.method for group in section.groups)
            others |= {group.config_id: counts[method] - 1 for method, group in chosen.items()}
            unusual |= {group.config_id for group in chosen.values() if _is_unusual(group)}
        columns += boards
    by_column = [{row.label: row for row in board.rows} for board in columns]
    configured = {row.label for board in columns for row in board.rows if row.config_id}
    rows = []
    for label in configured:
        cells = tuple(column.get(label) for column in by_column)
        known = [cell.rank for cell in cells if cell is not None and cell.rank is not None]
        rows.append(OverviewRow(label, cells, sum(known) / len(known) if known else None, len(known)))
    rows.sort(key=lambda r: (2 * r.ranked < len(columns), r.mean_rank or math.inf, r.label))
    notes = (_ORDER, *[STANDING] * any(others.values()), *[UNUSUAL] * bool(unusual))
    return Overview(tuple(columns), tuple(rows), notes, others, unusual)


def _is_unusual(group: Group) -> bool:
    return catalog.is_registered("method", group.method) and deviations(group) > 0  # of others nothing is known


def _one_row_each(board: Board, chosen: Collection[str]) -> Board:
    """The chosen configurations under the names of their methods, ranked anew, and the methods without a run."""
    rows = [replace(row, label=row.method) for row in board.rows if row.config_id in chosen or not row.config_id]
    found = ranks({row.label: row for row in rows}, catalog.metric_info(board.metric))
    return replace(board, rows=tuple(replace(row, rank=found.get(row.label)) for row in rows))
