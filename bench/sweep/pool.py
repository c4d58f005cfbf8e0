"""Cells in fresh processes: a crash costs one cell, and memory is given back after each."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.fit.interrupt import Interrupted, listening
from bench.plan.cells import Cell
from bench.run import Retry, execute
from bench.status import FAILED
from bench.store import Record

TIME_TO_SAVE = 20
"""Seconds that children have to end their iteration and write a checkpoint before they are killed."""

Task = Callable[..., list[Record]]
"""``bench.run.execute``, or what a test puts in its place; must be importable, as it is sent by name."""


@dataclass(frozen=True)
class Result:
    """How a cell ended: the status of each seed, or what went wrong."""

    cell: Cell
    statuses: dict[int, str]
    seconds: float
    error: str | None = None
    cost: Mapping[str, Any] = field(default_factory=dict)
    """That of a record made now: it is of all seeds that were fitted together."""

    @property
    def failed(self) -> bool:
        return self.error is not None or any(status in FAILED for status in self.statuses.values())


@dataclass
class _Child:
    process: BaseProcess
    receiver: Connection
    cell: Cell
    started: float
    log: Path


def run_cells(
    cells: Sequence[Cell], *, jobs: int, retry: Retry, logs: Path, task: Task = execute
) -> Generator[Result, None, None]:
    """Run cells, at most ``jobs`` at once, and yield each result as it comes.

    Leaving the iteration early (Ctrl-C) interrupts the children, which then save and release their claims.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bench.sweep.preload"])
    logs.mkdir(parents=True, exist_ok=True)
    waiting, running = list(cells), dict[int, _Child]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                child = _start(context, waiting.pop(0), retry, logs, task)
                running[child.process.sentinel] = child
            # The message too: a child whose message does not fit the pipe ends only once it is received.
            signs = {sign: sentinel for sentinel, child in running.items() for sign in (sentinel, child.receiver)}
            for sentinel in dict.fromkeys(signs[sign] for sign in wait(list(signs))):  # type: ignore[index]
                result = _ended(running[sentinel])
                del running[sentinel]
                yield result
    finally:
        _stop([child.process for child in running.values()])


def run_here(cells: Sequence[Cell], *, retry: Retry, task: Task = execute) -> Generator[Result, None, None]:
    """Run cells in this process, one after another: a debugger stops in them, and output is not redirected."""
    for cell in cells:
        start, records, error = time.monotonic(), list[Record](), None
        try:
            with listening(signal.SIGINT, signal.SIGTERM):
                records = task(cell.config, retry=retry)
        except UserError as problem:
            error = str(problem)
        yield _result(cell, records, time.monotonic() - start, error)


def _start(context: Any, cell: Cell, retry: Retry, logs: Path, task: Task) -> _Child:
    log = logs / f"{cell.method}_{cell.target}_{cell.config.config_id}.log"
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child_main, args=(task, cell.config, retry, log, sender), daemon=True)
    process.start()
    sender.close()
    return _Child(process, receiver, cell, time.monotonic(), log)


def _result(cell: Cell, records: Sequence[Record], seconds: float, error: str | None) -> Result:
    before = {seed: record["created"] for seed, record in cell.records.items()}
    made = (record["cost"] for record in records if record.get("created") not in (None, before.get(record["seed"])))
    return Result(cell, {record["seed"]: record["status"] for record in records}, seconds, error, next(made, {}))


def _ended(child: _Child) -> Result:
    try:
        message = child.receiver.recv()
    except (EOFError, OSError):  # the child ended without one, or within it
        message = None
    child.process.join()
    seconds = time.monotonic() - child.started
    records, error = message or ([], None)
    if message is None:
        code = child.process.exitcode or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        error = f"the process {how}; its output is in {child.log}"
    child.receiver.close()
    return _result(child.cell, records, seconds, error)


def _stop(processes: list[BaseProcess]) -> None:
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + TIME_TO_SAVE
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()


def _child_main(task: Task, config: Any, retry: Retry, log: Path, sender: Connection) -> None:
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
        with listening(signal.SIGINT, signal.SIGTERM):
            records = task(config, retry=retry)
    except UserError as error:
        sender.send(([], str(error)[:4000]))
    except (Interrupted, KeyboardInterrupt):
        sys.exit(130)
    else:
        kept = ("seed", "status", "created", "cost")  # the rest is on disk
        sender.send(([{key: record[key] for key in kept if key in record} for record in records], None))


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
