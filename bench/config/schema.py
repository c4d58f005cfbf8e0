"""Typed schemas: the fixed part of the configuration, and one dataclass per registered method and target.

Hydra then refuses unknown keys and wrong types by itself, and turns ``1`` into ``1.0`` where a float is meant.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field, make_dataclass
from functools import partial
from typing import Any

from omegaconf import MISSING

from bench.errors import UserError
from bench.registry import Entry


@dataclass
class Train:
    iterations: int = MISSING
    dtype: str = MISSING
    processes: int = 1
    """Processes that fit together, each with a batch of its own."""


@dataclass
class Eval:
    metrics: list[str] | None = None
    curve_points: int = MISSING
    samples: int = MISSING


@dataclass
class Paths:
    results: str = MISSING


@dataclass
class Wandb:
    """The mirror of runs in Weights & Biases; see ``bench.mirror``."""

    mode: str = MISSING
    project: str = "sivibench"
    entity: str | None = None
    """Team or user; the key's own unless given."""
    artifacts: bool = False
    """Upload the final parameters, too."""
    wait: float = 8.0
    """Seconds by which the mirror may lengthen a run."""


@dataclass
class Launcher:
    """Where the batched runs of a sweep are carried out; see slurm/README.md."""

    name: str = MISSING
    parallel: int | None = None
    """Batched runs (local) or array elements (slurm) at once."""
    seeds: int | None = None
    """At most so many seeds in one batched run; all of a configuration together unless given."""
    pack: int = 1
    """Batched runs in one SLURM job."""
    tasks_per_gpu: int = 1
    """Processes that share a job's GPU, each with its part of the pack."""
    minutes: int | None = None
    """Time limit of a job; that of the site unless given."""
    timeouts: int = 20
    """How often a job goes on after its time limit before its runs are recorded as ``timeout``."""
    snapshot: bool = False
    """Jobs run a copy of the commit instead of the working tree."""


@dataclass
class Root:
    """The whole configuration; ``method`` and ``target`` are filled by the dataclass of the chosen entry."""

    method: Any = MISSING
    target: Any = MISSING
    train: Train = field(default_factory=Train)
    eval: Eval = field(default_factory=Eval)
    seeds: Any = MISSING
    seed: int | None = None
    launcher: Launcher = field(default_factory=Launcher)
    site: str | None = None
    device: str = MISSING
    threads: int = MISSING
    compile: bool = MISSING
    checkpoint_seconds: float = MISSING
    progress: str = MISSING
    retry: bool = MISSING
    paths: Paths = field(default_factory=Paths)
    wandb: Wandb = field(default_factory=Wandb)


IDENTITY = ("method", "target", "train", "eval")
"""Parts of the configuration that enter the identity of a run."""

CHOICES: dict[str, tuple[str, ...]] = {
    "train.dtype": ("float32", "float64"),
    "progress": ("auto", "always", "never"),
    "wandb.mode": ("auto", "disabled", "offline", "online"),
    "launcher.name": ("local", "debug", "slurm"),
}
"""Strings with a fixed set of values."""

AT_LEAST: dict[str, float] = {
    "train.iterations": 1,
    "train.processes": 1,
    "eval.curve_points": 0,
    "eval.samples": 0,
    "threads": 1,
    "checkpoint_seconds": 0,
    "seed": 0,
    "wandb.wait": 0,
    "launcher.parallel": 1,
    "launcher.seeds": 1,
    "launcher.pack": 1,
    "launcher.tasks_per_gpu": 1,
    "launcher.minutes": 1,
    "launcher.timeouts": 0,
}
"""Smallest value allowed; null is, where the type allows it."""

_SCALARS = (int, float, bool, str)
_SEQUENCES = (tuple, list, Sequence)


def schema_of(entry: Entry) -> type:
    """The dataclass holding ``name`` and the hyper-parameters of an entry, with the signature's defaults.

    Raises:
        UserError: a hyper-parameter has an annotation the configuration cannot hold.
    """
    fields: list[Any] = [("name", str, field(default=entry.name))]
    for key, parameter in entry.parameters.items():
        if key in ("name", "version"):
            raise UserError(f"{entry.kind} {entry.name!r} has a hyper-parameter called {key!r}", "give it another name")
        storage = _storage(parameter.annotation)
        if storage is None:
            raise UserError(
                f"{entry.kind} {entry.name!r}: hyper-parameter {key!r} has the annotation {parameter.annotation}",
                "use int, float, bool, str, Literal[...], tuple[<one of these>, ...], or any of these | None",
            )
        default = parameter.default
        if isinstance(default, tuple | list):
            fields.append((key, storage, field(default_factory=partial(list, default))))
        else:
            fields.append((key, storage, field(default=default)))
    return make_dataclass(f"{entry.kind}_{entry.name}", fields)


def _optional(annotation: Any) -> tuple[Any, bool]:
    """``X | None`` -> (X, True); anything else -> (annotation, False)."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        rest = [arg for arg in typing.get_args(annotation) if arg is not type(None)]
        if len(rest) == 1:
            return rest[0], True
    return annotation, False


def _storage(annotation: Any) -> Any:
    inner, optional = _optional(annotation)
    origin, args = typing.get_origin(inner), typing.get_args(inner)
    if inner in _SCALARS:
        stored: Any = inner
    elif origin is typing.Literal and len({type(arg) for arg in args}) == 1 and type(args[0]) in _SCALARS:
        stored = type(args[0])
    elif origin in _SEQUENCES and (items := {arg for arg in args if arg is not Ellipsis}) and len(items) == 1:
        item = items.pop()
        if item not in _SCALARS:
            return None
        stored = list[item]  # type: ignore[valid-type]
    else:
        return None
    return stored | None if optional else stored


def allowed_values(annotation: Any) -> tuple[Any, ...] | None:
    """The values of a ``Literal`` annotation, None for others."""
    inner, _ = _optional(annotation)
    return typing.get_args(inner) if typing.get_origin(inner) is typing.Literal else None


def arguments(entry: Entry, values: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments for the class: lists become tuples again where the signature says tuple.

    Options that a record does not name because they were added later take the value meaning "as before".

    Raises:
        UserError: an option is missing, so the values are of another version of the component.
    """
    values = {**entry.obj.added, **values}
    found = {}
    for key, parameter in entry.parameters.items():
        if key not in values:
            raise UserError(f"{entry.kind} {entry.name!r} of another version: it had no {key!r}", "run it again")
        inner, _ = _optional(parameter.annotation)
        is_tuple = typing.get_origin(inner) is tuple and values[key] is not None
        found[key] = tuple(values[key]) if is_tuple else values[key]
    return found


def expected(annotation: Any) -> str:
    """An annotation as a person writes it, for messages."""
    choices = allowed_values(annotation)
    if choices is not None:
        return f"one of {', '.join(map(str, choices))}"
    return getattr(annotation, "__name__", str(annotation)) if annotation in _SCALARS else str(annotation)
