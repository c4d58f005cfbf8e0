"""The composed configuration as plain data, and the objects built from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bench import registry
from bench.config.identity import ENGINE_VERSION, config_id
from bench.config.schema import arguments
from bench.errors import UserError

if TYPE_CHECKING:
    from methods.base import Method
    from targets.base import Target


_TRAIN_ADDED = {"processes": 1}
"""Keys of ``train`` added after records were made, with the value that means "as before"."""


class Unfit(UserError):
    """The method needs something the target does not provide."""


@dataclass(frozen=True)
class Config:
    """One configuration for a set of seeds.

    Attributes:
        method, target: hyper-parameters with ``name`` and ``version``; part of the identity.
        train, eval: budget and evaluation; part of the identity.
        seeds: seeds to run; nothing from here on is part of the identity.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:<n>``; changes rounding, and a GPU draws noise of its own.
        threads: torch threads of this process; change rounding.
        compile: compile the training step; changes rounding.  What follows changes no number but times.
        checkpoint_seconds: least time between checkpoints (0: one at every point of the loss curve).
        progress: ``auto`` (a bar on a terminal), ``always`` or ``never``.
        results: folder of the records.
        retry: fit again what failed, diverged or ran out of time.
        wandb: settings of the mirror.
        overrides: what was given on the command line.
    """

    method: dict[str, Any]
    target: dict[str, Any]
    train: dict[str, Any]
    eval: dict[str, Any]
    seeds: list[int]
    device: str = "auto"
    threads: int = 1
    compile: bool = False
    checkpoint_seconds: float = 60.0
    progress: str = "auto"
    results: str = "results"
    retry: bool = False
    wandb: dict[str, Any] | None = None
    overrides: tuple[str, ...] = ()

    @classmethod
    def of_record(cls, record: dict[str, Any], results: str) -> Config:
        """The configuration that a run record was made with.

        Raises:
            UserError: the method or target has another version now, so the record cannot be added to.
        """
        kept = record["config"]
        for kind in ("method", "target"):
            entry = registry.get(kind, kept[kind]["name"])
            if entry.version != kept[kind]["version"]:
                raise UserError(
                    f"{record['run_id']} was made with version {kept[kind]['version']} of {kind} {entry.name!r}, "
                    f"which is now {entry.version}",
                    "run it again",
                )
        parts = {key: kept[key] for key in ("method", "target", "train", "eval")}
        return cls(**parts, seeds=[record["seed"]], results=results)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What decides the numbers but for how they are computed (``env``); stored as ``config`` in the record."""
        return {
            "engine": ENGINE_VERSION,
            "method": _as_recorded("method", self.method),
            "target": _as_recorded("target", self.target),
            "train": {key: value for key, value in self.train.items() if (key, value) not in _TRAIN_ADDED.items()},
            "eval": self.eval,
        }

    @cached_property
    def config_id(self) -> str:
        return config_id(self.identity)

    def batches(self, seeds: Sequence[int], limit: int | None = None) -> list[list[int]]:
        """Seeds in the groups that are fitted together: of at most ``limit``; of one for a ``Method.large``."""
        alone = registry.get("method", self.method["name"]).obj.large
        step = 1 if alone else limit or max(1, len(seeds))
        return [list(seeds[i : i + step]) for i in range(0, len(seeds), step)]

    def run_id(self, seed: int) -> str:
        """Identity of one seed's run."""
        return f"{self.config_id}-s{seed}"


def _as_recorded(kind: registry.Kind, values: dict[str, Any]) -> dict[str, Any]:
    """Without the options that were added later and are at the value meaning "as before" (``Method.added``)."""
    added = registry.get(kind, values["name"]).obj.added
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in added.items()}
    return {key: value for key, value in values.items() if not (key in plain and plain[key] == value)}


def build_target(config: Config) -> Target:
    """The target with its hyper-parameters, on the CPU in its own dtype."""
    entry = registry.get("target", config.target["name"])
    return entry.obj(**arguments(entry, config.target))


def check_needs(config: Config, target: Target) -> None:
    """Whether the method can be fitted to this target.

    Raises:
        Unfit: naming what is missing.
    """
    entry = registry.get("method", config.method["name"])
    missing = sorted(entry.obj.needs - target.provides)
    if missing:
        raise Unfit(
            f"method {entry.name!r} needs {', '.join(missing)}, "
            f"which target {config.target['name']!r} does not provide",
            f"the target provides: {', '.join(sorted(target.provides)) or 'nothing'}",
        )


def build_method(config: Config, target: Target) -> Method:
    """The method for this target, freshly initialised.

    Raises:
        Unfit: the target does not provide what the method needs, or not as the method asks for it.
    """
    from targets.base import Unsupported  # imported late: a configuration alone needs no torch

    check_needs(config, target)
    entry = registry.get("method", config.method["name"])
    try:
        return entry.obj(target, **arguments(entry, config.method))
    except Unsupported as error:  # what ``needs`` cannot say, such as how many draws
        raise Unfit(
            f"method {entry.name!r} cannot be built for target {config.target['name']!r}: {error}",
            "change the option it is about, or choose another target: `sivibench list --verbose`",
        ) from error
