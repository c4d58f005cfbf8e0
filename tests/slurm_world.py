"""A plugin for tests on SLURM: runs that take no time, meet a misfortune once, or take long without computing.

Methods ``quick_a``, ``quick_b``, ``quick_c`` are recorded at once, without the engine.  In the folder TEST_WORLD a file
``raise-<method>-<target>-<seed>`` (or ``kill-``) is removed by the run it names, which then raises or is killed (of
several processes the first one); while
there is ``hold`` every run waits, while there is ``hold-<method>-<target>-<seed>`` that one.  Everything else is fitted
by the real engine; ``dozing`` is a target whose curve points take TEST_NAP seconds each until there is a file
``awake``.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from torch import Tensor, distributed

sys.path.append(str(Path(__file__).parent))

import bench.run as runner  # noqa: E402
from bench.metrics.base import Metric, Value  # noqa: E402
from bench.registry import register  # noqa: E402
from methods.gaussian import MeanField  # noqa: E402
from targets.base import Target  # noqa: E402

WORLD = Path(os.environ.get("TEST_WORLD", "/nonexistent"))


def _fit(config, seeds, store):
    from stubs import record_of

    for seed in seeds:
        name = f"{config.method['name']}-{config.target['name']}-{seed}"
        while (WORLD / "hold").exists() or (WORLD / f"hold-{name}").exists():
            time.sleep(0.05)
        if _meets(f"raise-{name}"):
            raise ValueError("no luck today")
        if _meets(f"kill-{name}"):
            os.kill(os.getpid(), signal.SIGKILL)
    return [record_of(config, seed) for seed in seeds]


def _meets(name: str) -> bool:
    path = WORLD / name
    found = path.exists() and (not distributed.is_initialized() or distributed.get_rank() == 0)
    if found:
        path.unlink()
    return found


def _engine_of(real):
    def fit(config, seeds, store):
        if config.method["name"].startswith("quick"):
            return _fit(config, seeds, store)
        return real()(config, seeds, store)

    return lambda: fit


runner._engine = _engine_of(runner._engine)

for letter in "abc":
    register("method", f"quick_{letter}", source="test")(
        type(f"Quick{letter}", (MeanField,), {"__doc__": "A method that takes no time."})
    )


@register("metric", "doze", source="test", direction="lower")
class Doze(Metric):
    """Takes its time."""

    def __call__(self, q):
        if WORLD.is_dir():
            (WORLD / "dozed").touch()
        if not (WORLD / "awake").exists():
            time.sleep(float(os.environ.get("TEST_NAP", "0")))
        return Value(0.0)


@register("target", "dozing", source="test")
class Dozing(Target):
    """A standard normal in the plane whose curve points take their time."""

    dim = 2
    curve_metric = "doze"
    metrics = ("doze",)

    def log_prob(self, x: Tensor) -> Tensor:
        return -(x**2).sum(-1) / 2
