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
from bench.fit.heap import keep_freed_memory
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
    peak_bytes: int | None = None
    operations: dict[str, str] = field(default_factory=dict)
    times: list[float] = field(default_factory=list)

    @property
    def milliseconds(self) -> float:
        """Median over rounds, ms per seed-iteration."""
        return 1e3 * median(self.times)


def variants(config: Config, device: torch.device, seeds: Sequence[int], modes: Sequence[str]) -> list[Variant]:
    """The plain baseline first, then each mode (``eager``: traced graph; ``compile``) at each number of seeds."""
    keep_freed_memory()  # as a fit does; the plain step gains as well
    iterations = config.train["iterations"]
    plain_target = build_target(config).to(device)
    single = plain_step(build_method(config, plain_target).to(device), iterations)

    def plain(n: int) -> None:
        for _ in range(n):
            single()

    found = [Variant("plain", 1, plain)]
    for mode in modes:
        found += [batched(config, device, count, mode) for count in seeds]
    return found


def batched(config: Config, device: torch.device, count: int, mode: str) -> Variant:
    """The suite's step for ``count`` seeds, ready to run; seeds 0, 1, ...."""
    target = build_target(config).to(device)
    members = [m.to(device) for m in initialise(lambda: build_method(config, target), range(count))]
    operations = members[0].operations() | target.operations()
    program = Program(members[0], config.train["iterations"])
    state = program.initial_state(members)
    tape = Tape(list(range(count)), program.draws_per_iteration, program.device, program.dtype)
    started = time.perf_counter()
    late = program.phase(program.iterations - 1)  # those that move for most of a run
    advance = build(program, state, tape.tensors(), compile=mode == "compile", moving=late)
    done = 0

    def step(n: int) -> None:
        nonlocal done
        for _ in range(n):
            if done % tape.length == 0:
                tape.load(done)  # drawing the noise is part of the cost
            advance()
            done += 1

    return Variant(mode, count, step, time.perf_counter() - started, operations=operations)


def measure(found: Sequence[Variant], device: torch.device, *, rounds: int, seconds: float) -> None:
    """Time all variants in turn, ``rounds`` times, about ``seconds`` each time.

    The time is that of ``bench.device.clock``: on the CPU with one thread the process's own.
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
    """Run a few steps and return how many fill ``seconds``: at least one."""
    if _timed(variant, 1, device) < seconds:
        _timed(variant, 2, device)
    steps = 5 if _timed(variant, 1, device) < 0.1 * seconds else 1
    per_step = _timed(variant, steps, device) / steps
    return max(1, round(seconds / max(per_step, 1e-6)))
