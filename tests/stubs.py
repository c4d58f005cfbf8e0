"""A tiny registry and engine, so that what surrounds the engine is tested without it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from bench import registry
from bench.config import Config
from bench.environment import environment
from bench.record import new_record
from bench.run import execute
from bench.store import Record, Store
from methods.base import Method
from targets.base import Target

PAIR = ["method=stub_plain", "target=stub_gauss"]


class Plain(Method):
    """A method with one hyper-parameter of each kind."""

    def __init__(
        self,
        target: Target,
        *,
        lr: float = 1,  # an int on purpose: the field is a float all the same
        batch: int = 10,
        hidden: tuple[int, ...] = (5, 5),
        mode: Literal["a", "b"] = "a",
        clip: float | None = None,
        flag: bool = False,
    ) -> None:
        super().__init__(target)
        self.lr, self.batch, self.hidden, self.mode, self.clip, self.flag = lr, batch, hidden, mode, clip, flag


class Hungry(Method):
    """A method that needs noised marginals."""

    needs = frozenset({"log_prob", "noised"})

    def __init__(self, target: Target) -> None:
        super().__init__(target)


class Gauss(Target):
    """A normal target."""

    version = 3
    dim = 2

    def __init__(self, *, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def log_prob(self, x: Tensor) -> Tensor:
        return -(x**2).sum(-1) / 2 / self.scale**2


def add_stubs() -> None:
    """Register the stubs in whatever registry is in place."""
    registry.register("method", "stub_plain", source="test")(Plain)
    registry.register("method", "stub_hungry", source="test")(Hungry)
    registry.register("target", "stub_gauss", source="test")(Gauss)
    registry.register("target", "stub_other", source="test")(type("Other", (Gauss,), {"__doc__": "Another one."}))


def record_of(config: Config, seed: int, status: str = "done") -> Record:
    """A consistent record."""
    protocol = {"metric": "stub", "version": 1}
    key = hashlib.sha256(json.dumps(protocol, sort_keys=True).encode()).hexdigest()[:8]
    env = environment(torch.device("cpu"), threads=1, compile=False) | {"dirty": False}
    done = status == "done"
    return new_record(
        config,
        seed,
        status,
        env=env,
        metrics={"stub": {"value": 0.5 + seed, "floor": None, "protocol": key}} if done else {},
        protocols={key: protocol} if done else {},
        cost={"seconds": 1.0, "cpu_seconds": 1.0, "iterations": 10},
    )


def fit_done(config: Config, seeds: Sequence[int], store: Store) -> list[Record]:
    """Every seed is done at once."""
    return [record_of(config, seed) for seed in seeds]


def fit_never(config: Config, seeds: Sequence[int], store: Store) -> list[Record]:
    raise AssertionError("nothing was left to fit")


def task_done(config: Config, *, retry: bool = False) -> list[Record]:
    """What a sweep's child does, with the stub engine."""
    add_stubs()  # the child has a registry of its own
    return execute(config, retry=retry, fit=fit_done)


def task_long(config: Config, *, retry: bool = False) -> list[Record]:
    """Hands back more than a pipe holds."""
    return [{"seed": seed, "status": "done", "created": "", "cost": {"of": f"{seed:01000d}"}} for seed in range(1000)]


def task_killed_on_other(config: Config, *, retry: bool = False) -> list[Record]:
    """Is killed on one of the two targets."""
    if config.target["name"] == "stub_other":
        os.kill(os.getpid(), signal.SIGKILL)
    return task_done(config, retry=retry)


def fit_raises(config: Config, seeds: Sequence[int], store: Store) -> list[Record]:
    raise ValueError("no luck")


def task_failing(config: Config, *, retry: bool = False) -> list[Record]:
    add_stubs()
    return execute(config, retry=retry, fit=fit_raises)
