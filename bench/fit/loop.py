"""Run the iteration to its end: blocks of noise, log points, curve points, checkpoints, progress.

Nothing inside a chunk of iterations touches the host; everything else happens at chunk boundaries.  A signal ends a
chunk early, which changes no arithmetic: noise is found by its step, and losses are summed up to their next point.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from bench.fit import interrupt
from bench.fit.checkpoint import Checkpoint, unfit
from bench.fit.compiled import build
from bench.fit.heap import keep_freed_memory
from bench.fit.parallel import ALONE, Processes
from bench.fit.program import Program, State
from bench.fit.progress import Progress
from bench.fit.stopwatch import Stopwatch
from bench.fit.tape import Tape
from methods.base import Method

LOSS_POINTS = 200
"""Points of a loss curve; each is the mean loss since the point before."""

TOGETHER = 10
"""Iterations after which processes that fit together agree on whether to stop."""

CurveHook = Callable[[int, "Fit"], dict[str, Any]]


@dataclass
class Fit:
    """A finished (or diverged) batched fit.  Lists are per seed, in the order of ``seeds``."""

    program: Program
    seeds: list[int]
    state: State
    loss_steps: list[int] = field(default_factory=list)
    losses: dict[str, list[list[float]]] = field(default_factory=dict)
    """player -> one [S] list per entry of ``loss_steps``; frozen members and resting players hold NaN."""
    curve_steps: list[int] = field(default_factory=list)
    curve: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    setup_seconds: float = 0.0
    curve_seconds: float = 0.0
    """Spent in the curve's hook; like ``setup_seconds`` no part of the other two."""
    alive: bool = True
    """Whether any seed was at the last point of the loss curve: a fit of which nobody is left ends there."""
    until: str = ""
    """When the last iteration was done (UTC), in whichever attempt."""
    attempts: list[int] = field(default_factory=list)
    """How often each seed has been tried by now, as the checkpoint is to say."""
    made_with: list[dict[str, Any]] = field(default_factory=list)
    """Code, libraries and machine of the attempts, in order; more than one if they changed between interruptions."""

    @property
    def step(self) -> int:
        return int(self.state["step"])

    def diverged_at(self, row: int) -> int | None:
        """Step of the first non-finite loss or gradient of a member, or None."""
        died = int(self.state["died"][row])
        return None if died < 0 else died

    def member(self, row: int, into: Method) -> Method:
        """Load one seed's evaluation parameters into a method."""
        return self.program.load_member(self.state, row, into)


def fit(
    members: Sequence[Method],
    seeds: Sequence[int],
    iterations: int,
    *,
    compile: bool = False,
    checkpoint: Checkpoint | None = None,
    checkpoint_seconds: float = 60.0,
    curve_steps: Sequence[int] = (),
    curve_hook: CurveHook | None = None,
    progress: Progress | None = None,
    watch: Callable[[Fit], None] | None = None,
    made_with: Mapping[str, Any] | None = None,
    attempts: Sequence[int] = (),
    processes: Processes = ALONE,
) -> Fit:
    """Fit all seeds together.

    Args:
        members: one freshly initialised method per seed, all on the run's device and dtype.
        seeds: their seeds; each fixes its member's noise.
        iterations: length of the run.
        compile: as in ``bench.fit.compiled.build``.
        checkpoint: where to save and to continue from.
        checkpoint_seconds: least time between two checkpoints (seconds).
        made_with: what this attempt is made with, kept with the checkpoint (plain values).
        attempts: how often each seed has been tried, this time included; kept there, too.
        curve_steps, curve_hook: steps at which ``curve_hook(step, fit)`` is called; what it gives is kept.
        progress: the progress line.
        watch: called whenever the progress line is.
        processes: that fit together; only the first one reads and writes checkpoints.

    Raises:
        UserError: the checkpoint cannot be read or written.
        Interrupted: a signal asked to stop (``bench.fit.interrupt``); the checkpoint is written.
    """
    keep_freed_memory()
    program = Program(members[0], iterations, processes)
    run = Fit(program, list(seeds), program.initial_state(members), attempts=list(attempts or [1] * len(seeds)))
    run.made_with = [dict(made_with or {})]
    checkpoint = checkpoint if processes.first else None
    if checkpoint is not None and (saved := checkpoint.load(program.device)) is not None:
        _restore(run, saved, checkpoint)
    processes.share(run.state)
    tape = Tape(run.seeds, program.draws_per_iteration, program.device, program.dtype, processes.rank)
    tape.load(run.step)  # tracing runs the iteration once: on real noise
    advance, moving = None, None
    loss_points = _points(iterations, LOSS_POINTS)
    stops = sorted({*loss_points, *curve_steps, *program.boundaries, iterations})
    progress = progress or Progress(iterations, show=False)
    stopwatch, saved_at = Stopwatch(run.seconds, run.cpu_seconds), time.monotonic()
    progress.resume(run.step)
    step, stop = run.step, False
    run.alive = not processes.any(not run.alive, program.device)  # only the first one has read the checkpoint
    with interrupt.held():
        while step < iterations and run.alive:
            if advance is None or moving != program.phase(step):
                moving = program.phase(step)
                with stopwatch.apart() as block:
                    advance = build(program, run.state, tape.tensors(), compile=compile, moving=moving)
                run.setup_seconds += block.seconds
            step = _chunk(advance, step, min(tape.load(step), next(s for s in stops if s > step)), processes)
            if step in loss_points:
                _log_losses(run, step)
                run.alive = bool(run.state["alive"].any())  # asked seldom: it waits for the device
            if step in curve_steps and curve_hook is not None:
                run.curve_steps.append(step)
                with stopwatch.apart() as block:
                    run.curve.append(curve_hook(step, run))
                run.curve_seconds += block.seconds
            run.seconds, run.cpu_seconds = stopwatch.seconds, stopwatch.cpu_seconds
            run.until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())  # as records have it
            progress.update(step, run.losses, run.state["alive"])
            if watch is not None:
                watch(run)
            stop = processes.any(interrupt.pending(), program.device)
            if checkpoint is not None and (stop or time.monotonic() - saved_at >= checkpoint_seconds):
                save(run, checkpoint)
                saved_at = time.monotonic()
            if stop:
                break
    if processes.size > 1 and step < iterations and stop:  # another process was asked
        raise interrupt.Interrupted(signal.SIGTERM)
    progress.close()
    return run


def _chunk(advance: Callable[[], None], step: int, end: int, processes: Processes) -> int:
    """Iterate from ``step`` to ``end``, or to where a signal asks to stop; the step reached."""
    if processes.size > 1:
        end = min(end, step + TOGETHER)
    while True:
        advance()
        step += 1
        # An iteration may be long, and the time to stop short; several processes stop at the same one.
        if step == end or processes.size == 1 and interrupt.pending():
            return step


def save(run: Fit, checkpoint: Checkpoint) -> None:
    """Save a fit; ``fit`` called with the same arguments continues it."""
    plain = {k: getattr(run, k) for k in _PLAIN}
    checkpoint.save({"state": run.state, "plain": plain}, until=run.until, attempts=run.attempts)


_PLAIN = (
    *("loss_steps", "losses", "curve_steps", "curve", "seconds", "cpu_seconds", "setup_seconds", "curve_seconds"),
    *("alive", "until", "made_with"),
)


def _restore(run: Fit, saved: dict[str, Any], checkpoint: Checkpoint) -> None:
    # A method's parameters may have changed since; copying would broadcast some of the old ones into the new.
    if _shapes(saved["state"]) != _shapes(run.state):
        raise unfit(checkpoint.path)
    for key, value in run.state.items():
        value.copy_(saved["state"][key])
    plain, [now] = saved["plain"], run.made_with
    run.cpu_seconds = math.nan  # unless it is known of every attempt
    run.made_with = [now | {"source": source} for source in plain.get("sources", ())]  # of earlier code
    for key in _PLAIN:
        if key in plain:  # a checkpoint of earlier code goes on without what it did not keep
            setattr(run, key, plain[key])
    if now not in run.made_with:
        run.made_with.append(now)


def _shapes(state: State) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {key: (value.shape, value.dtype) for key, value in state.items()}


def _points(iterations: int, count: int) -> set[int]:
    """At most ``count`` evenly spaced steps in 1..iterations, the last one included."""
    count = min(count, iterations)
    return {round(iterations * (i + 1) / count) for i in range(count)}


def _log_losses(run: Fit, step: int) -> None:
    """Move the sums of losses to the host as means since the last point."""
    since = run.loss_steps[-1] if run.loss_steps else 0
    alive = run.state["alive"]
    for player in run.program.players:
        total = run.state[f"loss/{player.name}"]
        moves = player.iterations(since, step) * player.steps
        known = alive & (moves > 0)
        mean = torch.where(known, total / max(moves, 1), torch.full_like(total, float("nan")))
        run.losses.setdefault(player.name, []).append(mean.tolist())
        total.zero_()
    run.loss_steps.append(step)
