"""Where each run stands: its record, its claim, the queue and the journals of its jobs, joined."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import claims
from bench.launch.journal import JobStory, journal_path, read_journal, read_story
from bench.launch.manifest import Manifest
from bench.launch.queue import JobState, Queue, ask
from bench.status import STATUSES
from bench.store import Store

STATES = (*STATUSES, "running", "queued", "lost", "missing")


@dataclass(frozen=True)
class RunState:
    """Attributes:
    state: ``done``, ``failed``, ``diverged`` or ``timeout`` (on record); ``running``, ``queued``; ``lost``: its job
        ended without a record; ``missing``.
    reason: why it is so, where that is not plain.
    job: the last SLURM job that had it.
    """

    run_id: str
    state: str
    reason: str = ""
    job: str | None = None


@dataclass(frozen=True)
class Situation:
    """The jobs of some submissions and what became of them."""

    store: Store
    last: dict[str, tuple[Manifest, str]]
    """run id -> its last submission and job."""
    queue: Queue
    claims: dict[str, dict[str, Any]]
    _read: dict[str, JobStory] = field(default_factory=dict)

    @property
    def live(self) -> list[str]:
        """Jobs that wait or run."""
        return [job for job, state in self.queue.jobs.items() if state.live]

    def queued(self, run_id: str) -> bool:
        """Whether a job that waits or runs is going to do this run, or may be, as SLURM does not answer."""
        if run_id not in self.last:
            return False
        manifest, job = self.last[run_id]
        state = self.queue.get(job)
        if state is None:
            return not self.queue.reached
        return state.live and run_id not in self._story(manifest, job).passed

    def of(self, run_id: str, record: dict[str, Any] | None) -> RunState:
        """The state of one run.

        Args:
            run_id: the run.
            record: its record, if there is one.
        """
        manifest, job = self.last.get(run_id, (None, None))
        state = self.queue.get(job) if job else None
        claim = self.claims.get(run_id)
        done = record is not None and record["status"] == "done"
        if claim is not None and not done:  # `evaluate` claims what is done
            return RunState(run_id, "running", _owner(claim, self.store.claims / f"{run_id}.json"), job)
        redone = manifest is not None and record is not None and record["created"] < manifest.created
        if record is not None and (done or not (state is not None and state.live and redone)):
            return RunState(run_id, record["status"], _first_line(record.get("error")), job)
        if manifest is None or job is None:
            return RunState(run_id, "missing")
        story = self._story(manifest, job)
        if state is not None and state.live and run_id not in story.passed:
            return RunState(run_id, "queued", f"job {job} {state.state.lower()} {state.reason}".strip(), job)
        if run_id in story.finished:
            return RunState(run_id, "missing", "its record has been removed", job)
        why = _first_line(story.problems.get(run_id)) or self._ending(manifest, job, state, run_id)
        return RunState(run_id, "lost", f"job {job}: {why}", job)

    def _story(self, manifest: Manifest, job: str) -> JobStory:
        """The journal of a job, read once."""
        if job not in self._read:
            self._read[job] = read_story(journal_path(Path(manifest.folder), job))
        return self._read[job]

    def _ending(self, manifest: Manifest, job: str, state: JobState | None, run_id: str) -> str:
        """How a job ended before it wrote the run's record."""
        story = self._story(manifest, job)
        if state is None:
            ended = "SLURM does not answer" if not self.queue.reached else "SLURM has forgotten it"
        else:
            ended = f"{state.state} {state.reason}".strip()
        if story.refused:
            ended += f", requeue refused: {story.refused}"
        if story.silent:
            log = manifest.log(job)
            return ended + (f", see {log}" if log.exists() else ", no log (do compute nodes see the results folder?)")
        return ended + (", while this run was on" if run_id in story.begun else ", before this run began")


def situation(store: Store, submissions: Sequence[Manifest], runs: Collection[str] | None = None) -> Situation:
    """Ask the queue, and let claims of jobs that are over count as dead.

    Args:
        store: the results folder.
        submissions: all that may have the runs, the oldest first.
        runs: ask only about the jobs that have these last or claim them; all jobs unless given.
    """
    last = {run: (m, job) for m in submissions for job in m.jobs for run in m.runs(job)}
    # Claims first: of a job that waits at a later time than they were read, they must be from before.
    standing = claims.standing(store.claims)
    known = {job for m in submissions for job in m.jobs}
    if runs is not None:
        owners = {(claim.get("job") or {}).get("id") for run, claim in standing.items() if run in runs}
        known &= {last[run][1] for run in runs if run in last} | owners
    queue = ask(known)
    for run_id in dead_claims(standing, queue):
        claims.expire(store.claims, run_id, standing.pop(run_id).get("token", ""))
    return Situation(store, last, queue, standing)


def dead_claims(standing: dict[str, dict[str, Any]], queue: Queue) -> list[str]:
    """Claims whose job waits (again) or is over, so that its process is gone although nobody could see it go."""
    found = []
    for run_id, claim in standing.items():
        state = queue.get((claim.get("job") or {}).get("id", ""))
        if state is not None and (not state.live or state.state in ("PENDING", "REQUEUED")):
            found.append(run_id)
    return found


def drifted(submissions: Iterable[Manifest]) -> list[str]:
    """Jobs that ran other code than was submitted."""
    return [
        job
        for manifest in submissions
        for job in manifest.jobs
        if any(event.get("drifted") for event in read_journal(journal_path(Path(manifest.folder), job)))
    ]


def _owner(claim: dict[str, Any], path: Path) -> str:
    try:
        age = f", heartbeat {max(0.0, time.time() - path.stat().st_mtime):.0f} s ago"
    except OSError:
        age = ""
    job = claim.get("job")
    where = f"job {job['id']} on " if job else ""
    return f"{where}{claim.get('host')}{age}"


def _first_line(text: str | None) -> str:
    """The telling line of an error: the last one of a traceback, the first one of a message."""
    lines = [line for line in (text or "").splitlines() if line.strip()]
    return (lines[-1] if lines and lines[0].startswith("Traceback") else lines[0] if lines else "").strip()


def seed_span(seeds: Sequence[int]) -> str:
    """``3``, ``0..9`` or ``1,5,7``."""
    first, last = min(seeds), max(seeds)
    if first == last:
        return str(first)
    whole = sorted(seeds) == list(range(first, last + 1))
    return f"{first}..{last}" if whole else ",".join(map(str, sorted(seeds)))
