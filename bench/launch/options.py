"""``launcher=... launcher.<key>=... site=...`` on a sweep's command line, composed by Hydra like everything else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.config.compose import compose_values
from bench.config.overrides import parse
from bench.config.validate import validate
from bench.errors import UserError


def split_options(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Overrides about where to run, and the others.

    Raises:
        UserError: an override does not follow the grammar.
    """
    where: list[str] = []
    rest: list[str] = []
    for text, override in zip(overrides, parse(overrides), strict=True):
        key = override.key_or_group
        (where if key in ("launcher", "site") or key.startswith("launcher.") else rest).append(text)
    return where, rest


def compose_options(where: Sequence[str]) -> dict[str, Any]:
    """The keys of ``bench.config.schema.Launcher``, and ``site``.

    Raises:
        UserError: unknown launcher or key, wrong type, value out of range, or a site without launcher=slurm.
    """
    values = compose_values(where)
    validate(values)
    found: dict[str, Any] = values["launcher"] | {"site": values["site"]}
    if found["site"] is not None and found["name"] != "slurm":
        raise UserError(f"site={found['site']} has no meaning with launcher={found['name']}", "add launcher=slurm")
    return found


def refuse_options(overrides: Sequence[str]) -> None:
    """For a command that works in its own process only.

    Raises:
        UserError: an override says where to run.
    """
    where, _ = split_options(overrides)
    if where:
        raise UserError(f"{where[0]!r}: `run` works in this process", "use `sivibench sweep` with the same overrides")
