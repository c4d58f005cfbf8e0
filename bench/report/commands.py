"""The exact command that reproduces a row."""

from __future__ import annotations

import re
from typing import Any

from bench.report import catalog
from bench.report.groups import Group, flatten


def command(group: Group) -> str:
    """``sivibench run method=ksivi target=banana seeds=4 train.iterations=50000 ...``.

    Training and evaluation settings are all spelled out, since their defaults live in files that may change;
    parameters of methods and targets are left to the defaults in their signatures where they equal them.
    """
    config = group.records[0]["config"]
    parts = [f"method={group.method}", f"target={group.problem.name}", f"seeds={_seeds(group)}"]
    for section in ("method", "target"):
        changed = catalog.changed(section, {"name": "", **config.get(section, {})})  # type: ignore[arg-type]
        parts += [f"{section}.{key}={literal(value)}" for key, value in flatten(changed).items()]
    for section in ("train", "eval"):
        parts += [f"{section}.{key}={literal(v)}" for key, v in sorted(flatten(config.get(section, {})).items())]
    return "sivibench run " + " ".join(_quoted(part) for part in parts)


def literal(value: Any) -> str:
    """A value in Hydra's override grammar."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ",".join(literal(item) for item in value) + "]"
    if isinstance(value, str) and not re.fullmatch(r"[\w./-]+", value):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value)


def _seeds(group: Group) -> str:
    seeds = sorted(record["seed"] for record in group.records)
    return str(len(seeds)) if seeds == list(range(len(seeds))) else literal(seeds)


def _quoted(part: str) -> str:
    if re.fullmatch(r"[\w./=,:+-]+", part):
        return part
    return "'" + part.replace("'", "'\\''") + "'"
