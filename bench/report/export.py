"""The tables as plain data, for ``--json`` and for other programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from bench.report.commands import command
from bench.report.summary import provenance
from bench.report.table import Board, Row, Tables


def as_data(tables: Tables) -> dict[str, Any]:
    """JSON-serialisable form of the tables; missing numbers are null."""
    return {
        "schema": 1,
        "records": asdict(provenance(tables.records)),
        "few_step_runs": tables.few_step,
        "targets": [
            {
                "target": section.problem.name,
                "label": section.problem.label,
                "config": section.problem.config,
                "boards": [_board(board) for board in section.boards],
                "commands": {group.config_id: command(group) for group in section.groups},
            }
            for section in tables.sections
        ],
    }


def _board(board: Board) -> dict[str, Any]:
    keys = ("metric", "direction", "unit", "protocol_id", "protocol", "distinct")
    return {key: getattr(board, key) for key in keys} | {"rows": [_row(row) for row in board.rows]}


def _row(row: Row) -> dict[str, Any]:
    data = asdict(row)
    data["values"] = {str(seed): value for seed, value in sorted(row.values.items())}
    return data
