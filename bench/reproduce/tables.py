"""A paper's table as conf/paper describes it: rows x columns of a configuration, a metric and a printed number."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from bench.config import CONF
from bench.errors import UserError
from bench.report import published

FOLDER = CONF / "paper"
RELATIVE_TIME = "seconds_per_iteration"
"""A column of this kind shows times relative to one of its rows: absolute ones belong to a machine."""

SEEDS = 10
"""Per cell, unless table, row or cell says otherwise; a time is that of one seed alone."""

_TABLE = {"title", "paper", "seeds", "overrides", "columns", "rows", "cells", "notes", "doubt", "excess_over"}
_COLUMN = {"overrides", "metric", "relative_to", "doubt", "note"}
_ROW = {"columns", "overrides", "published", "absent", "doubt", "switch", "note", "seeds", "published_iterations"}
_CELL = {"row", "column", "overrides", "published", "absent", "doubt", "note", "seeds"}


@dataclass(frozen=True)
class CellSpec:
    """One cell.

    Attributes:
        row, column: its place, as the paper labels it.
        metric: registered metric, or ``RELATIVE_TIME``.
        overrides: of the configuration; later ones win over earlier ones with the same key.
        published: id in results/published.csv, None where the paper prints no number.
        seeds: how many it asks for.
        relative_to: row whose time is 1 in a column of times.
        published_iterations: how many of them the printed time is of.
        excess_over: row of the paper's own truth.  The cell is judged by what is above it: the printed numbers above
            the printed truth, ours above their floors, which are on the same draws.
        absent: why the suite does not run this cell; empty if it does.
        doubt: why the protocol may not be the paper's although the number counts as comparable; empty if there is none.
        switch: what differs from another row, which has the verdict; empty if this is no such variant.
        note: what a reader should know.
    """

    row: str
    column: str
    metric: str
    overrides: tuple[str, ...]
    published: str | None
    seeds: int = SEEDS
    relative_to: str = ""
    published_iterations: int = 1
    excess_over: str = ""
    absent: str = ""
    doubt: str = ""
    switch: str = ""
    note: str = ""

    @property
    def timed(self) -> bool:
        """Whether it shows a time and no value of a metric."""
        return self.metric == RELATIVE_TIME


@dataclass(frozen=True)
class PaperTable:
    """A file of conf/paper."""

    name: str
    title: str
    paper: str
    notes: tuple[str, ...]
    cells: tuple[CellSpec, ...]
    columns: tuple[str, ...] = field(default=())
    rows: tuple[str, ...] = field(default=())


def names(folder: Path = FOLDER) -> list[str]:
    """The tables there are."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def load_table(name: str, folder: Path = FOLDER, numbers: Path = published.DEFAULT_PATH) -> PaperTable:
    """Read ``conf/paper/<name>.yaml``.

    Raises:
        UserError: no such table, not YAML, an unknown key, row or column, or an id that is not in published.csv.
    """
    path = folder / f"{name}.yaml"
    if not path.is_file():
        raise UserError(f"unknown table {name!r}", f"choose from: {', '.join(names(folder))}, all")
    try:
        text = yaml.safe_load(path.read_text(encoding="utf-8"))
        return _table(name, text, published.by_id(numbers))
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
        problem = str(error.args[0] if isinstance(error, KeyError) else error).splitlines()[0]
        raise UserError(
            f"cannot read the table {path}: {problem}", "docs/reproduction.md describes the keys"
        ) from error


def _table(name: str, text: dict[str, Any], numbers: dict[str, dict[str, str]]) -> PaperTable:
    _known("the table", text, _TABLE)
    columns, rows = text["columns"], text["rows"]
    truth = text.get("excess_over", "")
    if truth and truth not in rows:
        raise ValueError(f"excess_over names no row: {truth}")
    exceptions: dict[tuple[str, str], dict[str, Any]] = {}
    for item in text.get("cells") or ():
        _known("a cell", item, _CELL)
        if item["row"] not in rows or item["column"] not in (rows[item["row"]].get("columns") or columns):
            raise ValueError(f"there is no cell {item['row']} x {item['column']}")
        exceptions[item["row"], item["column"]] = item
    cells = []
    for row, about_row in rows.items():
        _known(f"row {row}", about_row, _ROW)
        own = about_row.get("columns") or list(columns)
        if unknown := set(own) - set(columns):
            raise ValueError(f"row {row} names the unknown columns {sorted(unknown)}")
        printed = _printed(row, about_row.get("published"), own)
        for column in own:
            about_column = columns[column]
            _known(f"column {column}", about_column, _COLUMN)
            parts = [text, about_column, about_row, exceptions.get((row, column), {})]
            metric = about_column["metric"]
            identifier = parts[3].get("published", printed.get(column))
            if identifier is not None and numbers and identifier not in numbers:
                raise ValueError(f"{identifier} is not in published.csv")
            cells.append(
                CellSpec(
                    row=row,
                    column=column,
                    metric=metric,
                    overrides=merged([o for part in parts for o in part.get("overrides") or ()]),
                    published=identifier,
                    seeds=1 if metric == RELATIVE_TIME else _number("seeds", row, parts, SEEDS),
                    relative_to=about_column.get("relative_to", ""),
                    published_iterations=_number("published_iterations", row, [about_row], 1),
                    excess_over=truth if row != truth else "",
                    absent=_last("absent", parts),
                    doubt=_last("doubt", parts),
                    switch=about_row.get("switch", ""),
                    note="; ".join(part["note"] for part in parts[1:] if part.get("note")),
                )
            )
    return PaperTable(
        name, text["title"], text["paper"], tuple(text.get("notes") or ()), tuple(cells),
        tuple(columns), tuple(rows),
    )  # fmt: skip


def _number(key: str, row: str, parts: list[dict[str, Any]], usual: int) -> int:
    found: Any = next((part[key] for part in reversed(parts) if key in part), usual)
    if type(found) is not int or found < 1:
        raise ValueError(f"{key} of row {row}: {found!r} is not a number from 1 on")
    return found


def merged(overrides: list[str]) -> tuple[str, ...]:
    """Overrides with the last value of each key, in the order in which the keys come first."""
    found: dict[str, str] = {}
    for text in overrides:
        found[text.split("=", 1)[0]] = text
    return tuple(found.values())


def _printed(row: str, given: Any, columns: list[str]) -> dict[str, str | None]:
    """Ids by column; a list goes along the columns, with null where nothing is printed."""
    if given is None:
        return {}
    if isinstance(given, dict):
        if unknown := set(given) - set(columns):
            raise ValueError(f"row {row} names the unknown columns {sorted(unknown)}")
        return dict(given)
    if len(given) != len(columns):
        raise ValueError(f"row {row} has {len(given)} published ids for {len(columns)} columns")
    return dict(zip(columns, given, strict=True))


def _last(key: str, parts: list[dict[str, Any]]) -> str:
    return next((part[key] for part in reversed(parts) if part.get(key)), "")


def _known(what: str, given: dict[str, Any], keys: set[str]) -> None:
    if unknown := set(given) - keys:
        raise ValueError(f"{what} has the unknown keys {sorted(unknown)}; known: {', '.join(sorted(keys))}")
