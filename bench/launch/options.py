"""``launcher=... launcher.<key>=... site=...`` on a sweep's command line, composed by Hydra like everything else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from bench.config.compose import compose_values
from bench.config.overrides import parse, says_where
from bench.config.schema import Launcher
from bench.config.validate import validate
from bench.errors import UserError

OF_JOBS = ("pack", "tasks_per_gpu", "minutes", "timeouts", "snapshot")
"""Keys of ``Launcher`` that only jobs of a cluster have, as ``site``."""


def split_options(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Overrides about where to run, and the others.

    Raises:
        UserError: an override does not follow the grammar.
    """
    where: list[str] = []
    rest: list[str] = []
    for text, override in zip(overrides, parse(overrides), strict=True):
        (where if says_where(override) else rest).append(text)
    return where, rest


def compose_options(where: Sequence[str]) -> dict[str, Any]:
    """The keys of ``bench.config.schema.Launcher``, and ``site``.

    Raises:
        UserError: unknown launcher or key, wrong type, value out of range, or a key that this launcher does not use.
    """
    values = compose_values(where)
    validate(values)
    found: dict[str, Any] = values["launcher"] | {"site": values["site"]}
    name, usual = found["name"], {f.name: f.default for f in fields(Launcher)}
    changed = {key: value for key, value in values["launcher"].items() if key != "name" and value != usual[key]}
    for key, value in changed.items():
        text = f"launcher.{key}={str(value).lower()}"
        if key in OF_JOBS and name != "slurm":
            raise meaningless(text, name, "add launcher=slurm")
        if key == "parallel" and name == "debug":
            raise meaningless(text, name, "it runs one after another: leave it out")
    if found["site"] is not None and name != "slurm":
        raise meaningless(f"site={found['site']}", name, "add launcher=slurm")
    return found


def meaningless(text: str, launcher: str, remedy: str) -> UserError:
    """What to say of an option that a launcher would not use."""
    return UserError(f"{text} has no meaning with launcher={launcher}", remedy)


def require_slurm(text: str, overrides: Sequence[str]) -> None:
    """For an option of the command line that is about jobs of a cluster.

    Raises:
        UserError: the overrides do not say launcher=slurm, or as ``split_options`` and ``compose_options``.
    """
    name = compose_options(split_options(overrides)[0])["name"]
    if name != "slurm":
        raise meaningless(text, name, "add launcher=slurm")


def refuse_options(overrides: Sequence[str]) -> None:
    """For a command that works in its own process only.

    Raises:
        UserError: an override says where to run.
    """
    where, _ = split_options(overrides)
    if where:
        raise UserError(f"{where[0]!r}: `run` works in this process", "use `sivibench sweep` with the same overrides")
