"""Plain text, aligned: what ``sivibench report`` prints."""

from __future__ import annotations

from collections.abc import Sequence

from bench.report import cells
from bench.report.groups import setting
from bench.report.overview import Overview
from bench.report.table import Board, Row, Tables
from bench.stats import RANK_RULE

Grid = list[list[str]]

WIDTH = 150
"""Columns of text into which the overview is folded."""

GAP = "  "

EMPTY = "-"
"""A method that was not run."""


def render(tables: Tables, matrix: Overview) -> str:
    """Overview, then every board."""
    if not tables.sections:
        return "no records\n"
    blocks = ["".join(f"{line}\n" for line in tables.heading)] if tables.heading else []
    if len(matrix.columns) > 1:
        grid = overview_grid(matrix)
        blocks.append(
            f"Overview: {overview_caption(grid)}\n"
            + "\n".join(align(part) for part in fold(grid))
            + "".join(f"[{number}] {reason}\n" for number, reason in enumerate(matrix.reasons, 1))
            + "".join(f"{note}\n" for note in matrix.notes)
        )
    for section in tables.sections:
        for board in section.boards:
            text = align(board_grid(board)) + "".join(f"{line}\n" for line in (*board.absent, *published_notes(board)))
            blocks.append(f"{section.problem.label} · {describe(board)}\n{text}")
    notes = "".join(f"{name}: {text}\n" for name, text in tables.notes)
    blocks.append(f"{RANK_RULE}\n† ranked on the seeds that finished.\n{notes}")
    return "\n".join(blocks)


def describe(board: Board) -> str:
    """``js_grid [protocol a1b2c3d4: bins=64] (nats, lower is better)``."""
    unit = f"{board.unit}, " if board.unit else ""
    distinct = {key: value for key, value in board.distinct.items() if key != "protocol"}
    name = board.metric
    if board.distinct:
        name += f" [protocol {board.protocol_id}" + (f": {setting(distinct)}]" if distinct else "]")
    return f"{name} ({unit}{board.direction} is better)"


def board_grid(board: Board) -> Grid:
    """Header and the rows of methods that have runs; columns nobody fills are left out."""
    head = ["rank", "method", "mean ± half", "95 % interval", "median", "seeds", "failed"]
    head += [f"floor ({board.floor_kind})"] * board.has_floor + ["published"] * board.has_published
    head += ["time/seed", "evals/seed", "note"]
    grid = [head] + [_board_row(board, row) for row in board.present]
    keep = [i for i, name in enumerate(head) if name not in ("failed", "note") or any(r[i] for r in grid[1:])]
    return [[row[i] for i in keep] for row in grid]


def _board_row(board: Board, row: Row) -> list[str]:
    line = [cells.rank(row), row.label, cells.value(row), cells.bounds(row), cells.median(row), cells.seeds(row)]
    line.append(cells.failed(row))
    if board.has_floor:
        line.append(cells.number(row.floor, 3))
    if board.has_published:
        line.append("; ".join(cells.published(item) for item in row.published) or "-")
    return [*line, cells.seconds(row.seconds), cells.count(row.evaluations), row.reason]


def published_notes(board: Board) -> list[str]:
    """Where the published numbers stand; they were measured with other protocols and are not ranked."""
    found = (
        f"published {row.method}: {cells.published(item)} = {cells.source(item)} (the paper's protocol, not ranked)"
        for row in board.rows
        for item in row.published
    )
    return list(dict.fromkeys(found))


def overview_caption(grid: Grid) -> str:
    """What the cells of the overview are."""
    absent = any(EMPTY in row[1:-1] for row in grid)
    return "headline metric of each target, mean ± half interval (rank)" + f"; {EMPTY}: not run" * absent + "."


def overview_grid(matrix: Overview) -> Grid:
    """Header and rows of the overview."""
    head = ["method", *(f"{b.problem.label}: {b.title}" for b in matrix.columns), "mean rank"]
    grid, reasons = [head], matrix.reasons
    for row in matrix.rows:
        mean_rank = "-" if row.mean_rank is None else f"{row.mean_rank:.2f} ({row.ranked} of {len(matrix.columns)})"
        shown = (overview_cell(cell, reasons, matrix.marks(cell)) for cell in row.cells)
        grid.append([row.label, *shown, mean_rank])
    return grid


def overview_cell(cell: Row | None, reasons: Sequence[str], marks: str = "") -> str:
    """``0.0123 ± 0.0004 (1) * +2``, with failures; or the number of the reason why there is nothing."""
    if cell is None:
        return EMPTY
    failures = cells.failed(cell)
    if cell.summary is None:
        number = f"[{reasons.index(cell.reason) + 1}]" if cell.reason in reasons else ""
        return " ".join(filter(None, (EMPTY, failures or number, marks)))
    return " ".join(filter(None, (cells.value(cell), f"({cells.rank(cell)})", failures, marks)))


def fold(grid: Grid, width: int = WIDTH) -> list[Grid]:
    """The grid in parts of at most ``width`` characters, where a column allows it.

    Each part has the first column, and of the rows those with something in it.
    """
    widths = [max(len(row[i]) for row in grid) + len(GAP) for i in range(len(grid[0]))]
    parts: list[list[int]] = [[]]
    for column in range(1, len(widths)):
        if parts[-1] and widths[0] + sum(widths[i] for i in (*parts[-1], column)) - len(GAP) > width:
            parts.append([])
        parts[-1].append(column)
    if len(parts) == 1:
        return [grid]
    return [[[row[0], *(row[i] for i in part)] for row in grid if any(row[i] != EMPTY for i in part)] for part in parts]


def align(grid: Sequence[Sequence[str]]) -> str:
    """Columns padded to their widest cell, a rule under the header."""
    widths = [max(len(row[i]) for row in grid) for i in range(len(grid[0]))]
    lines = [GAP.join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in grid]
    return "\n".join([lines[0], GAP.join("-" * width for width in widths), *lines[1:]]) + "\n"
