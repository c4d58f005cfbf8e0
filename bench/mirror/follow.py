"""The parent's side of the mirror: start the worker beside a fit, tell it what there is, and never wait long for it."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from bench.config import Config
from bench.errors import RunFailed
from bench.mirror import content
from bench.mirror.access import resolve
from bench.store import Store

LIVE_SECONDS = 5.0
"""Least time between two reports of a fit under way."""

OFFLINE_SECONDS = 60.0
"""Longest wait for offline runs to be written after a fit: there is no server to hang on, only a busy machine."""

STOP_SECONDS = 2.0
"""Longest wait after an interruption: a job that is preempted has little time left."""

ROOT = Path(__file__).resolve().parents[2]
log = logging.getLogger("sivibench")


class Process:
    """A worker and the pipe to it; writing never blocks the caller.

    Args:
        store: the results folder.
        wandb: the ``wandb`` settings of the configuration.
        mode: ``online`` or ``offline``.
        errors: where its standard error goes; appended to.
    """

    def __init__(self, store: Store, wandb: Mapping[str, Any], mode: str, errors: Path) -> None:
        errors.parent.mkdir(parents=True, exist_ok=True)
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        # What the client would read from the environment is said by us; a GPU is the fit's.
        given = {key: value for key, value in os.environ.items() if key not in _OURS}
        given |= {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        given |= {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false", "MPLBACKEND": "agg"}
        with open(errors, "ab") as stream:
            # SLURM signals every process of a job, also one that does not ignore it yet: the child inherits the mask.
            masked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR2})
            try:
                self.child = subprocess.Popen(
                    [sys.executable, "-P", "-m", "bench.mirror.worker"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stream,
                    env=given,
                    start_new_session=True,  # Ctrl-C is for the fit
                )
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, masked)
        self._out: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        self.said: list[dict[str, Any]] = []
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._write, self._read)]
        for thread in self._threads:
            thread.start()
        job = {"mode": mode, "folder": str(store.artifacts.resolve())}
        self.send(job={**job, **{key: wandb[key] for key in ("project", "entity", "artifacts")}})

    def send(self, **line: Any) -> None:
        """Queue one message."""
        self._out.put(line)

    def end(self, seconds: float) -> bool:
        """Nothing more will come: wait so long at most, then kill; whether it ended by itself."""
        self.send(end=True)
        self._out.put(None)
        try:
            self.child.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        else:
            self._threads[1].join(1.0)
            return True
        finally:
            self.kill()

    def kill(self) -> None:
        """End the process and what it started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()

    def _write(self) -> None:
        assert self.child.stdin is not None
        with suppress(OSError, ValueError), self.child.stdin as stream:  # it may have died: the parent must not
            while (line := self._out.get()) is not None:
                stream.write(json.dumps(line).encode() + b"\n")
                stream.flush()

    def _read(self) -> None:
        assert self.child.stdout is not None
        with self.child.stdout as stream:
            for text in stream:
                with suppress(ValueError):
                    self.said.append(json.loads(text))


_OURS = {"WANDB_MODE", "WANDB_DIR", "WANDB_RUN_ID", "WANDB_RESUME", "WANDB_RUN_GROUP", "WANDB_JOB_TYPE", "WANDB_NAME"}
_OURS |= {"WANDB_PROJECT", "WANDB_ENTITY", "WANDB_TAGS", "WANDB_SWEEP_ID", "WANDB_DISABLED", "WANDB_REINIT"}


class Mirror:
    """The W&B runs of one batched fit.

    Args:
        config: the configuration.
        seeds: the seeds that are fitted together.
        store: where their records will be.
        mode: ``online`` or ``offline``.
    """

    def __init__(self, config: Config, seeds: Sequence[int], store: Store, mode: str) -> None:
        assert config.wandb is not None
        self.config, self.seeds, self.store, self.online = config, list(seeds), store, mode == "online"
        self.wait = config.wandb["wait"] if self.online else OFFLINE_SECONDS
        self.errors = store.logs / f"wandb_{config.config_id}.log"
        self._process = Process(store, config.wandb, mode, self.errors)
        self._sent = dict.fromkeys(self.seeds, 0)
        self._at = time.monotonic()
        if self.online:
            names = {"config_id": config.config_id, "config": config.identity}
            names |= {"method": config.method["name"], "target": config.target["name"]}
            for seed in self.seeds:
                self._process.send(open=names | {"run_id": config.run_id(seed), "seed": seed})

    def due(self) -> bool:
        """Whether it is time to report again; cheap."""
        return self.online and time.monotonic() - self._at >= LIVE_SECONDS

    def report(self, curves: Iterable[tuple[int, Mapping[str, Any]]], iterations: int) -> None:
        """Send what is new in the curves of each seed; the last step comes with the record."""
        self._at = time.monotonic()
        for seed, curve in curves:
            new = [row for row in content.rows(curve) if self._sent.get(seed, iterations) < row[0] < iterations]
            if new:
                self._process.send(run=self.config.run_id(seed), rows=new)
                self._sent[seed] = new[-1][0]

    def finish(self) -> str | None:
        """Mirror the records that are there now; a sentence about what is not mirrored as asked, if anything."""
        names = self.config.target["name"], self.config.method["name"]
        for seed in self.seeds:
            self._process.send(record=str(self.store.path(self.config.run_id(seed), *names).resolve()))
        ended = self._process.end(self.wait)
        done = sum("run" in line for line in self._process.said)
        offline = next((line["offline"] for line in self._process.said if "offline" in line), None)
        if done < len(self.seeds):
            why = next((line["failed"] for line in self._process.said if "failed" in line), f"see {self.errors}")
            why = why if ended else f"no end within {self.wait:g} s"
            left = len(self.seeds) - done
            return f"{left} of {len(self.seeds)} runs not mirrored ({why}); `sivibench wandb push` does it later"
        return f"offline copies only ({offline}); `sivibench wandb sync` uploads them later" if offline else None

    def abandon(self) -> None:
        """The fit did not come to its end: it is continued under the same id, or failed for a reason of its own."""
        self._process.send(stop=True)
        self._process.end(STOP_SECONDS if self.online else 0.0)


_current: ContextVar[Mirror | None] = ContextVar("mirror", default=None)


@contextmanager
def following(config: Config, seeds: Sequence[int], store: Store, tell: Callable[[str], None]) -> Iterator[None]:
    """Mirror the fit that happens within the block; what goes wrong with the mirror is told and changes nothing else.

    Args:
        config: the configuration; nothing happens if its ``wandb.mode`` is ``disabled``.
        seeds: the seeds that are fitted together.
        store: where the records are written before the block ends.
        tell: hears a line if something is not mirrored as asked.
    """
    mirror = _start(config, seeds, store, tell)
    token = _current.set(mirror)
    try:
        yield
    except RunFailed:  # failures are on record, too
        _finish(mirror, tell)
        raise
    except BaseException:
        if mirror is not None:
            with suppress(Exception):
                mirror.abandon()
        raise
    else:
        _finish(mirror, tell)
    finally:
        _current.reset(token)


def current() -> Mirror | None:
    """The mirror of the fit under way, if it is to be told about its curves now."""
    mirror = _current.get()
    return mirror if mirror is not None and mirror.due() else None


def _start(config: Config, seeds: Sequence[int], store: Store, tell: Callable[[str], None]) -> Mirror | None:
    if config.wandb is None or config.wandb["mode"] == "disabled":
        return None
    try:
        mode, remark = resolve(config.wandb["mode"])
        if remark:
            tell(f"W&B: {remark}")
        return Mirror(config, seeds, store, mode)
    except Exception as error:  # whatever it is: the fit goes on
        tell(f"W&B: not mirrored: {type(error).__name__}: {error}")
        return None


def _finish(mirror: Mirror | None, tell: Callable[[str], None]) -> None:
    if mirror is None:
        return
    try:
        if remark := mirror.finish():
            tell(f"W&B: {remark}")
    except Exception as error:
        tell(f"W&B: not mirrored: {type(error).__name__}: {error}")
    finally:
        mirror._process.kill()
