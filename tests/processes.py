"""The real command line in processes of its own, and what two runs of it must have in common."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from bench.store import Store

ROOT = Path(__file__).parents[1]

SMALL = ["target=banana", "tuned=none", "train.iterations=290", "seeds=3", "device=cpu"]
SMALL += ["eval.curve_points=2", "eval.metrics=[marginal_mean_error,gate]"]
"""A run of a few seconds that reaches the second block of noise (at 256, which is no point of the loss curve)."""

QUICK = ["method=meanfield", "method.batch=20", *SMALL, "train.iterations=20", "eval.metrics=[gate]", "seeds=2"]
"""One of less than a second."""


@dataclass
class Done:
    """How a command ended; a negative code is the signal that killed it."""

    returncode: int
    stdout: str
    stderr: str


class Forked:
    """A command started by ``tests/nursery.py``: it begins at once, with torch already loaded."""

    def __init__(self, arguments: list[str], environment: Mapping[str, str]) -> None:
        folder = Path(mkdtemp(prefix="sivibench-test-"))
        self.out, self.err = folder / "out", folder / "err"
        request = {"arguments": arguments, "environment": dict(environment)}
        self.pid = _ask(request | {"out": str(self.out), "err": str(self.err)})

    def wait(self) -> Done:
        done = Done(_ask({"wait": self.pid}), self.out.read_text(), self.err.read_text())
        for path in (self.out, self.err):
            path.unlink()
        self.out.parent.rmdir()
        return done


class Spawned:
    """A command as a person starts it: a new interpreter."""

    def __init__(self, arguments: list[str], environment: Mapping[str, str]) -> None:
        pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        command = [sys.executable, "-m", "bench", *arguments]
        self._process = subprocess.Popen(command, cwd=ROOT, env=environment, **pipe)  # type: ignore[call-overload]
        self.pid = self._process.pid

    def wait(self) -> Done:
        out, err = self._process.communicate(timeout=600)
        return Done(self._process.returncode, out, err)


def start(*arguments: object, results: Path, fresh: bool = False, **environment: object) -> Forked | Spawned:
    """Start ``python -m bench`` with the misfortunes of ``tests/misfortune.py`` at hand.

    Args:
        results: the results folder.
        fresh: in a new interpreter instead of a forked one (seconds more).
        environment: variables to set.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SIVIBENCH_")}
    plugin = {"SIVIBENCH_PLUGINS": str(Path(__file__).with_name("misfortune.py")), "SIVIBENCH_RESULTS": str(results)}
    variables = kept | plugin | {key: str(value) for key, value in environment.items()}
    return (Spawned if fresh else Forked)([str(argument) for argument in arguments], variables)


def bench(*arguments: object, results: Path, fresh: bool = False, **environment: object) -> Done:
    """Run ``python -m bench`` to its end."""
    return start(*arguments, results=results, fresh=fresh, **environment).wait()


def outcome(results: Path) -> list[dict[str, Any]]:
    """All records without what may differ between two runs: when, where and how long."""
    kept = []
    for record in Store(results).records():
        cost = {key: record["cost"].get(key) for key in ("seeds_sharing", "iterations", "target_evaluations")}
        kept.append({key: record[key] for key in record if key not in ("created", "env")} | {"cost": cost})
    return kept


def leftovers(results: Path) -> list[Path]:
    """Every file in a results folder that is neither a record nor the parameters of a run."""
    store = Store(results)
    kept = {*store.files(), *store.parameters.glob("*.safetensors")}
    return [path for path in results.rglob("*") if path.is_file() and path not in kept]


def _ask(request: dict[str, Any]) -> int:
    nursery = _nursery()
    assert nursery.stdin is not None and nursery.stdout is not None
    print(json.dumps(request), file=nursery.stdin, flush=True)
    return int(nursery.stdout.readline())


@cache
def _nursery() -> subprocess.Popen[str]:
    """One per test process; it ends when its standard input is closed, at the latest with this process."""
    pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(Path(__file__).with_name("nursery.py"))]
    nursery: subprocess.Popen[str] = subprocess.Popen(command, cwd=ROOT, env=environment, **pipe)  # type: ignore[call-overload]
    return nursery
