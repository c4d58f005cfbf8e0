"""A plugin file that lets a run meet a chosen misfortune; loaded by the run itself through SIVIBENCH_PLUGINS.

TEST_AT="checkpoint 3 kill"   SIGKILL just before the third checkpoint is renamed into place
TEST_AT="record 2 full"       the disk is full when the second record is renamed into place
TEST_AT="metric 2 kill"       SIGKILL in the second seed's evaluation (with eval.metrics=[...,gate])
TEST_HOLD=<path>              evaluation waits until that file exists
"""

import errno
import os
import signal
import time
from pathlib import Path

import torch

from bench.metrics.base import Metric, Value
from bench.registry import register
from methods.gaussian import MeanField

_seen = {"checkpoint": 0, "record": 0, "metric": 0}


def _meet(event: str) -> None:
    _seen[event] += 1
    where, number, what = os.environ.get("TEST_AT", "- 0 -").split()
    if (event, _seen[event]) != (where, int(number)):
        return
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise OSError(errno.ENOSPC, "No space left on device")


_replace = os.replace


def _watched(source, destination, **keys):
    path = Path(destination)
    if path.suffix == ".pt":
        _meet("checkpoint")
    elif "runs" in path.parts:
        _meet("record")
    _replace(source, destination, **keys)


os.replace = _watched


@register("metric", "gate", source="test", direction="lower")
class Gate(Metric):
    """Where a test kills or holds an evaluation."""

    def __call__(self, q):
        _meet("metric")
        hold = os.environ.get("TEST_HOLD")
        deadline = time.monotonic() + 300
        while hold and not Path(hold).exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        return Value(0.0)


@register("method", "doomed", source="test")
class Doomed(MeanField):
    """Mean field whose loss turns NaN after 40 steps for the seeds whose fate, drawn at the start, is too bad."""

    def __init__(self, target, *, worst: float = 0.3):
        super().__init__(target)
        self.worst = worst
        self.fate = torch.nn.Parameter(torch.rand(()))

    def loss(self, noise, clock):
        dead = (clock.step >= 40) & (self.fate > self.worst)
        return super().loss(noise, clock) + torch.where(dead, torch.nan, 0.0) + 0.0 * self.fate
