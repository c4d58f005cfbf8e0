"""Timing of training steps, interleaved so that a drifting machine hits all variants alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

import torch

from bench.config import Config, build_method, build_target
from bench.device import clock
from bench.fit.compiled import build
from bench.fit.members import initialise
from bench.fit.program import Program
from bench.fit.tape import Tape
from bench.speed.plain import plain_step


@dataclass
class Variant:
    """One way of doing a training step; ``times`` holds seconds per seed-iteration, one per round."""

    mode: str
    seeds: int
    step: Callable[[int], None]
    setup_seconds: float = 0.0
    operations: dict[str, str] = field(default_factory=dict)
    times: list[float] = field(default_factory=list)

    @property
    def milliseconds(self) -> float:
        """Median over rounds, ms per seed-iteration."""
        return 1e3 * median(self.times)


def variants(config: Config, device: torch.device, seeds: Sequence[int], modes: Sequence[str]) -> list[Variant]:
    """The plain baseline first, then each mode (``eager``: traced graph; ``compile``) at each number of seeds."""
    iterations = config.train["iterations"]
    plain_target = build_target(config).to(device)
    single = plain_step(build_method(config, plain_target).to(device), iterations)

    def plain(n: int) -> None:
        for _ in range(n):
            single()

    found = [Variant("plain", 1, plain)]
    for mode in modes:
        found += [_batched(config, device, count, mode) for count in seeds]
    return found


def _batched(config: Config, device: torch.device, count: int, mode: str) -> Variant:
    target = build_target(config).to(device)
    members = [m.to(device) for m in initialise(lambda: build_method(config, target), range(count))]
    operations = members[0].operations() | target.operations()
    program = Program(members[0], config.train["iterations"])
    state = program.initial_state(members)
    tape = Tape(list(range(count)), program.draws_per_iteration, program.device, program.dtype)
    started = time.perf_counter()
    advance = build(program, state, tape.tensors(), compile=mode == "compile")
    done = 0

    def step(n: int) -> None:
        nonlocal done
        for _ in range(n):
            if done % tape.length == 0:
                tape.load(done)  # drawing the noise is part of the cost
            advance()
            done += 1

    return Variant(mode, count, step, time.perf_counter() - started, operations)


def measure(found: Sequence[Variant], device: torch.device, *, rounds: int, seconds: float) -> None:
    """Time all variants in turn, ``rounds`` times, about ``seconds`` each time.

    On the CPU the process's own CPU time is taken (one thread: equal to wall time on an idle core, and not disturbed by
    other processes); on CUDA wall time around a synchronisation.
    """
    counts = [_warm_up(variant, device, seconds) for variant in found]
    for _ in range(rounds):
        for variant, count in zip(found, counts, strict=True):
            variant.times.append(_timed(variant, count, device) / (count * variant.seeds))


def _timed(variant: Variant, count: int, device: torch.device) -> float:
    started = clock(device)
    variant.step(count)
    return clock(device) - started


def _warm_up(variant: Variant, device: torch.device, seconds: float) -> int:
    """Run a few steps and return how many fill ``seconds``."""
    _timed(variant, 3, device)
    per_step = _timed(variant, 5, device) / 5
    return max(5, round(seconds / max(per_step, 1e-6)))
