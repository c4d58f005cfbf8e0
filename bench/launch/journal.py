"""What a job says about itself: one JSON line per event, one file per job over all its restarts."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.job import current_job

log = logging.getLogger("sivibench")


class Journal:
    """The journal of the job this process belongs to.

    Args:
        folder: the sweep's folder of journals.
    """

    def __init__(self, folder: Path) -> None:
        self.job = (current_job() or {"id": f"local{os.getpid()}", "restart": 0})["id"]
        self.path = journal_path(folder, self.job)

    def write(self, event: str, **fields: Any) -> None:
        """Append an event; lines are short, so that those of several processes do not mix.

        A journal that cannot be written costs its event only: whether a job goes on does not hang on it.
        """
        about = {"event": event, "time": round(time.time(), 1), "rank": int(os.environ.get("SLURM_PROCID") or 0)}
        about |= {"restart": (current_job() or {"restart": 0})["restart"], "host": socket.gethostname()}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                os.write(handle, (json.dumps(about | fields, default=str) + "\n").encode())
            finally:
                os.close(handle)
        except OSError as error:
            log.warning("the journal %s cannot be written, %r is not noted there: %s", self.path, event, error)

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """Events so far, of one name or all."""
        return [event for event in read_journal(self.path) if name in (None, event["event"])]


def journal_path(folder: Path, job: str) -> Path:
    """Where the journal of a job lies."""
    return folder / "journal" / f"{job}.jsonl"


def read_journal(path: Path) -> list[dict[str, Any]]:
    """The events of a journal; none without a file, and a torn last line is passed over."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return [event for event in found if isinstance(event, dict) and "event" in event]


@dataclass(frozen=True)
class JobStory:
    """What the journal of a job comes to.

    Attributes:
        silent: nothing stands in it.
        begun: runs that the job began.
        problems: what it complained of when it was last done with a run, by run; None where all was well.
        finished: runs of which it last says that all was well, so that there was a record then.
        passed: runs that it has left behind since its last start; it will not come back to them by itself.
        refused: why it was not started again, if that was its end.
    """

    silent: bool
    begun: set[str]
    problems: dict[str, str | None]
    finished: set[str]
    passed: set[str]
    refused: str | None


def read_story(path: Path) -> JobStory:
    """A journal in short."""
    events = read_journal(path)
    restart = max((event["restart"] for event in events), default=0)
    # After an earlier refusal the job was started again all the same.
    latest = [event for event in events if event["restart"] == restart]
    answers = {event["event"]: event["detail"] for event in latest if event["event"] in ("requeued", "requeue refused")}
    last = {run: event for event in events for run in event.get("runs", ())}
    return JobStory(
        silent=not events,
        begun=_runs(events, "begin"),
        problems={run: event["problem"] for event in events if event["event"] == "done" for run in event["runs"]},
        finished={run for run, event in last.items() if event["event"] == "done" and event["problem"] is None},
        passed=_runs(latest, "done"),
        # If one process of the job was heard, the refusals of the others do not count.
        refused=None if "requeued" in answers else answers.get("requeue refused"),
    )


def _runs(events: Iterable[dict[str, Any]], name: str) -> set[str]:
    return {run for event in events if event["event"] == name for run in event["runs"]}
