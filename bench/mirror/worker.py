"""The process that talks to W&B: ``python -m bench.mirror.worker``, fed with lines of JSON on its standard input.

    {"job": {mode, project, entity, artifacts, folder}}         first, once
    {"open": about}                       online and live: make the W&B run while the fit is under way
    {"run": run_id, "rows": [[step, {name: value}], ...]}               what is new in the history of an open run
    {"record": path}                      a finished run: the rest of its history, tables, figures, the end
    {"stop": true}                        the fit was interrupted: it will be continued under the same id
    {"end": true}                         nothing more will come

One line of JSON on standard output per finished run.  The parent goes on after a while whatever happens here, and kills
this process; if the parent dies, the input ends and so does this process.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from bench.status import FAILED

INIT_SECONDS = 20.0
"""How long it may take to make a run."""

GRACE_SECONDS = 3.0
"""How long this process outlives its parent."""


class Worker:
    """W&B runs of one batched fit, or of records that are there already.

    Args:
        job: ``mode`` (``online`` or ``offline``), ``project``, ``entity``, ``artifacts`` and the ``folder`` to keep
            things in (``<results>/artifacts``).
    """

    def __init__(self, job: dict[str, Any]) -> None:
        from bench.mirror import ledger
        from bench.mirror.access import answers, server

        self.job, self.artifacts = job, Path(job["folder"])
        self.place = ledger.place(job["project"], job["entity"])
        self.online = job["mode"] == "online"
        if self.online and not answers(server()):
            self._offline(f"{server()} does not answer")
        self.runs: dict[str, Any] = {}
        self.uploading: set[str] = set()
        self.next: dict[str, int] = {}
        import bench.mirror.figures  # noqa: F401  (slow to load: now, while the fit is under way)

    def open(self, about: dict[str, Any]) -> None:
        """Make the W&B run, or go on with it if an earlier attempt has made it."""
        import wandb

        from bench.mirror import content, ledger

        if about["run_id"] in self.runs:
            return
        quiet: dict[str, Any] = {"console": "off", "silent": True, "disable_git": True, "save_code": False}
        quiet |= {"x_disable_stats": True, "x_disable_meta": True, "x_save_requirements": False}
        where = {"project": self.job["project"], "entity": self.job["entity"], "dir": str(self.artifacts)}
        self.artifacts.mkdir(parents=True, exist_ok=True)

        def start(mode: str) -> Any:
            return wandb.init(
                **where,
                **content.settings(about),
                mode=mode,  # type: ignore[arg-type]
                resume="allow",
                reinit="create_new",
                settings=wandb.Settings(init_timeout=INIT_SECONDS, **quiet),
            )

        run = None
        if self.online:
            try:
                run = start("online")
                self.uploading.add(about["run_id"])
            except Exception as error:  # the client raises what it likes: no key, refused, timed out
                self._offline(f"{type(error).__name__}: {error}")
        if run is None:
            run = start("offline")
        self.runs[about["run_id"]] = run
        known = 0 if self.online else self._kept_offline(ledger.read(self.artifacts, about["run_id"]))
        # What the server has already (or an earlier offline copy holds) is not sent again.
        self.next[about["run_id"]] = max(run.starting_step, known)

    def rows(self, run_id: str, rows: list[Any]) -> None:
        """Add to the history of an open run what it does not have."""
        for step, values in rows:
            if run_id in self.runs and step >= self.next[run_id]:
                self.runs[run_id].log(values, step=step)
                self.next[run_id] = step + 1

    def finish(self, path: str) -> dict[str, Any]:
        """Complete the W&B run of a record and note it in the ledger.

        Returns:
            What to tell the parent.
        """
        from bench.mirror import content, ledger

        record = json.loads(Path(path).read_text(encoding="utf-8"))
        run_id = record["run_id"]
        before = ledger.read(self.artifacts, run_id)
        self.open(content.about(record))
        run, history = self.runs[run_id], content.rows(record["curve"])
        self.rows(run_id, history[:-1])
        last, values = history[-1] if history else (0, {})
        values = values if last >= self.next[run_id] else {}
        step = max(last, self.next[run_id])
        run.log(values, step=step)
        run.summary.update(content.summary(record))
        try:
            run.log(self._media(record), step=step)
            if self.job["artifacts"]:
                self._artifact(run, run_id)
        except Exception:  # the numbers are there; a server that takes no tables must not cost them
            traceback.print_exc()
        folder = Path(run.dir).parent
        run.finish(exit_code=int(record["status"] in FAILED))
        del self.runs[run_id]
        online = run_id in self.uploading
        mode, kept = ("online", None) if online else ("offline", folder.name)
        entry = ledger.Entry(run_id, content.digest(record), mode, self.place, step + 1, kept)
        if online and before is not None and before.place == self.place:
            ledger.mark_synced(self.artifacts, before.folder)
        ledger.write(self.artifacts, entry)
        if online:
            shutil.rmtree(folder, ignore_errors=True)  # the client's own copy; the record says the same
        return {"run": run_id, "mode": mode}

    def stop(self) -> None:
        """The fit was interrupted: its runs are left for the next attempt."""
        for run in self.runs.values():
            run.mark_preempting()
        for run in self.runs.values():
            run.finish(exit_code=1)

    def _offline(self, why: str) -> None:
        self.online = False
        print(json.dumps({"offline": why.splitlines()[0][:300]}), flush=True)

    def _kept_offline(self, entry: Any) -> int:
        there = entry is not None and entry.place == self.place and entry.folder is not None
        return entry.next_step if there and (self.artifacts / "wandb" / entry.folder).is_dir() else 0

    def _media(self, record: dict[str, Any]) -> dict[str, Any]:
        import numpy as np
        import wandb

        from bench.mirror import content
        from bench.mirror.figures import figures

        columns, lines = content.table(record)
        found: dict[str, Any] = {"table/metrics": wandb.Table(columns=[*columns], data=lines)} if lines else {}
        if record.get("samples"):
            found["table/samples"] = wandb.Table(columns=["x", "y"], data=record["samples"])
        for name, figure in figures(record).items():
            figure.canvas.draw()
            found[f"figure/{name}"] = wandb.Image(np.asarray(figure.canvas.buffer_rgba()))  # type: ignore[attr-defined]
        return found

    def _artifact(self, run: Any, run_id: str) -> None:
        import wandb

        path = self.artifacts / "parameters" / f"{run_id}.safetensors"
        if path.exists():  # parameters stay where the fit ran
            artifact = wandb.Artifact(f"parameters-{run_id}", type="parameters")
            artifact.add_file(str(path))
            run.log_artifact(artifact)


def main() -> None:
    """Carry out what comes in; 1 if some run could not be mirrored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):  # SLURM signals every process of a job
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGUSR2})  # held back by the parent
    lines = _input()
    job = next(lines)["job"]
    worker, failed = Worker(job), False
    for line in lines:
        try:
            if "open" in line and worker.online:  # offline, nobody looks before the end
                worker.open(line["open"])
            elif "rows" in line:
                worker.rows(line["run"], line["rows"])
            elif "record" in line:
                print(json.dumps(worker.finish(line["record"])), flush=True)
            elif "stop" in line:
                worker.stop()
        except Exception as error:  # one run's trouble is not another's
            failed = True
            traceback.print_exc()
            print(json.dumps({"failed": f"{type(error).__name__}: {error}"[:300]}), flush=True)
    sys.exit(int(failed))


def _input() -> Iterator[dict[str, Any]]:
    """Lines as they come, read by a thread so that the death of the parent is noticed even while the client hangs."""
    queue: SimpleQueue[dict[str, Any]] = SimpleQueue()

    def read() -> None:
        for text in sys.stdin:
            queue.put(line := json.loads(text))
            if "end" in line:
                return
        threading.Event().wait(GRACE_SECONDS)
        os._exit(1)

    threading.Thread(target=read, daemon=True).start()
    while "end" not in (line := queue.get()):
        yield line


if __name__ == "__main__":
    main()
