"""The samplers of one NFE: which configurations make a line, and what it is called."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from bench.report import catalog
from bench.report.diffusion.settings import grid_of, is_untrained
from bench.report.groups import Group, Problem, differing, flatten, setting

BEST = "best"
"""The kind of the line that shows the best of a solver's settings; of how many depends on the column."""

LONG = 40
"""Settings longer than this are cut, with a letter and a note."""


@dataclass(frozen=True)
class Line:
    """A sampler: its configurations, at most one per problem where it is trained, each with what sets it apart."""

    label: str
    kind: str
    """What was done for it: ``distilled, data-free``, ``untrained``, ``on the grid of ...``, or ``BEST``."""
    method: str
    members: tuple[tuple[Group, str], ...] = field(compare=False)
    brief: str = ""
    """A shorter label, for other lines to name it."""

    @property
    def name(self) -> str:
        """The method, whatever its setting."""
        return catalog.paper_name(self.method)

    @property
    def is_solver(self) -> bool:
        return not catalog.is_trained(self.method)


def lines_of(groups: Sequence[Group], notes: dict[str, str]) -> list[Line]:
    """Lines of the groups of one NFE; new notes are added to ``notes``."""
    by_method: dict[str, list[Group]] = defaultdict(list)
    for member in groups:
        by_method[member.method].append(member)
    trained = {m: members for m, members in by_method.items() if catalog.is_trained(m)}
    found = [line for method, members in trained.items() for line in _trained(method, members, notes)]
    owners: dict[tuple[Any, ...], dict[str, None]] = defaultdict(dict)
    used: dict[tuple[Any, ...], set[Problem]] = defaultdict(set)
    for line in found:
        for member, _ in line.members if line.kind != "untrained" else ():
            grid = grid_of(member.records[0])
            if grid is not None:
                owners[grid][line.brief or line.label] = None
                used[grid].add(member.problem)
    for method, members in by_method.items():
        if method not in trained:
            found += _solver(method, members, {grid: " and ".join(names) for grid, names in owners.items()}, used)
    return found


def _trained(method: str, groups: Sequence[Group], notes: dict[str, str]) -> list[Line]:
    """A line per setting; settings that differ only between problems (tuned per target) share it."""
    fits = [member for member in groups if not is_untrained(member.records[0])]
    keys = _telling(groups, ("train.iterations",))
    # Its length names a training only where nothing else does, so that a sampler is called the same before and after.
    names = Counter((member.problem, setting(_shown(member, keys))) for member in fits)
    if any(number > 1 for number in names.values()):
        keys |= _telling(fits)
    lines: dict[tuple[str, bool], list[tuple[Group, str]]] = defaultdict(list)
    for member in groups:
        text = setting(_shown(member, keys))
        lines[text, is_untrained(member.records[0])].append((member, ""))
    found, name = [], catalog.paper_name(method)
    for (text, untrained), members in sorted(lines.items()):
        letter = _letter(text, notes) if len(text) > LONG else ""
        telling = f"{_head(_shown(members[0][0], keys))}; {letter}" if letter else text
        kind = "untrained" if untrained else _training_data(members[0][0])
        label, brief = (f"{name} ({inside})" if inside else name for inside in (telling, letter or text))
        found.append(Line(label, kind, method, tuple(members), brief))
    return found


def _training_data(member: Group) -> str:
    operations = (member.records[0].get("env") or {}).get("operations") or {}
    used = operations.get("training_data")
    if not catalog.needs_teacher(member.method):
        return "trained on data"
    return "distilled" if used is None else "distilled, data-free" if used == "none" else f"distilled from {used}"


def _solver(
    method: str,
    groups: Sequence[Group],
    grids: dict[tuple[Any, ...], str],
    used: Mapping[tuple[Any, ...], Collection[Problem]],
) -> list[Line]:
    """The best of all settings; and the settings on every grid of a trained sampler, where that sampler has it."""
    keys = _telling(groups)
    name = catalog.paper_name(method)
    members = [(member, setting(_shown(member, keys, grids))) for member in groups]
    found = [Line(name, BEST, method, tuple(members))]
    for grid, owners in grids.items():
        candidates = (member for member, _ in members if member.problem in used[grid])
        same = tuple((member, "") for member in candidates if grid_of(member.records[0]) == grid)
        if same:
            found.append(Line(name, f"on the grid of {owners}", method, same))
    return found


def _telling(groups: Sequence[Group], without: tuple[str, ...] = ()) -> set[str]:
    """The settings that tell configurations of a method apart on any one problem."""
    by_problem: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for member in groups:
        own = {key: value for key, value in _own(member).items() if key not in without}
        by_problem[json.dumps(member.problem.config, sort_keys=True)].append(own)
    return {key for configs in by_problem.values() for difference in differing(configs) for key in difference}


def _own(member: Group) -> dict[str, Any]:
    """Method and training of a configuration, flattened; of what was not trained, without the length of training."""
    config = member.records[0]["config"]
    own = flatten({"method": config["method"], "train": config.get("train", {})})
    if is_untrained(member.records[0]) or not catalog.is_trained(member.method):
        own.pop("train.iterations", None)
    return own


def _shown(
    member: Group, keys: set[str], grids: Mapping[tuple[Any, ...], str] = MappingProxyType({})
) -> dict[str, Any]:
    """The telling settings of a configuration; a time grid that has an owner goes by its name."""
    values = {key: value for key, value in sorted(_own(member).items()) if key in keys}
    if values.get("method.grid") not in (None, "explicit"):
        values.pop("method.times", None)
    if values.get("method.grid") not in (None, "power"):
        values.pop("method.power", None)
    grid = grid_of(member.records[0])
    if values.get("method.grid") == "explicit" and grid is not None and grid in grids:
        values.pop("method.times", None)
        values["method.grid"] = f"that of {grids[grid]}"
    return values


def _head(values: Mapping[str, Any]) -> str:
    """As many of the settings as are short enough together: words first, then numbers, no lists."""
    words = [key for key, value in values.items() if isinstance(value, str)]
    numbers = [key for key, value in values.items() if isinstance(value, bool | int | float)]
    head: dict[str, Any] = {}
    for key in (*words, *numbers):
        if len(setting(head | {key: values[key]})) > LONG:
            break
        head[key] = values[key]
    return setting(head) or "..."


def _letter(text: str, notes: dict[str, str]) -> str:
    """The letter of the note that holds this text."""
    for letter, note in notes.items():
        if note == text:
            return letter
    i = len(notes)
    notes[letter := chr(ord("A") + i) if i < 26 else f"A{i}"] = text
    return letter
