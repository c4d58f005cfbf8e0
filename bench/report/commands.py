"""The exact command that reproduces a row."""

from __future__ import annotations

import re
from typing import Any

from bench.config.overrides import tuned_file
from bench.registry import Kind
from bench.report import catalog
from bench.report.groups import Group, flatten

# Hydra reads these as something else than text
_WORDS = ("null", "true", "false", "inf", "nan")


def command(group: Group) -> str:
    """``sivibench run method=ksivi target=banana seeds=4 train.iterations=50000 ...``.

    Training and evaluation settings are all spelled out, since their defaults live in files; parameters of methods and
    targets are left to the defaults in their signatures where they equal them.  Where conf/tuned has a file for the
    pair, ``tuned=none`` keeps it out, so that the command means the same whatever becomes of that file.
    """
    config = group.records[0]["config"]
    parts = [f"method={group.method}", f"target={group.problem.name}", f"seeds={_seeds(group)}"]
    parts += ["tuned=none"] if tuned_file(group.method, group.problem.name, ()) else []
    sections: tuple[Kind, ...] = ("method", "target")
    for section in sections:
        changed = catalog.changed(section, config.get(section, {}))
        parts += [f"{section}.{key}={literal(value)}" for key, value in sorted(flatten(changed).items())]
    for part in ("train", "eval"):
        parts += [f"{part}.{key}={literal(v)}" for key, v in sorted(flatten(config.get(part, {})).items())]
    return "sivibench run " + " ".join(_quoted(part) for part in parts)


def literal(value: Any) -> str:
    """A value in Hydra's override grammar."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ",".join(literal(item) for item in value) + "]"
    if isinstance(value, str) and not (re.fullmatch(r"[A-Za-z_][\w./-]*", value) and value.lower() not in _WORDS):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value)


def _seeds(group: Group) -> str:
    seeds = sorted(record["seed"] for record in group.records)
    return str(len(seeds)) if seeds == list(range(len(seeds))) else literal(seeds)


def _quoted(part: str) -> str:
    if re.fullmatch(r"[\w./=,:+-]+", part):
        return part
    return "'" + part.replace("'", "'\\''") + "'"
