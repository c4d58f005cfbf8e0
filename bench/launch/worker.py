"""What runs inside a SLURM job: batched runs one after another, continued wherever the job was stopped.

Nothing is decided from the arguments alone.  What has a record is passed over, what has a checkpoint goes on from it;
so a job that SLURM starts again, for whatever reason and without any warning, simply does the rest.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import subprocess
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import torch

from bench.claims import claim
from bench.device import resolve_device
from bench.environment import environment, git_state, source_digest
from bench.errors import RunFailed, UserError
from bench.fit.interrupt import Interrupted, listening, raise_pending
from bench.job import current_job, ends
from bench.launch.group import Group, Job
from bench.launch.journal import Journal
from bench.record import new_record
from bench.registry import discover
from bench.run import execute
from bench.store import Store

EARLY = 65
"""Seconds by which SLURM may send the warning before its time: it looks at time limits once a minute."""

TIME_TO_RECORD = 30
"""Seconds that a process which only helps gives the first one after an error, before it ends them all."""

log = logging.getLogger("sivibench")


class JobFailed(RuntimeError):
    """Something in this job did not end well; raised last, so that SLURM shows the job as FAILED."""


class Work:
    """The callable that submitit pickles; by name, so the job runs the code that lies there when it starts."""

    def __call__(self, job: Job) -> None:
        """Do the job's batched runs; with several processes, this one's share.

        Raises:
            JobFailed: a run failed, or the job had to stop and could not be started again.
            SystemExit: stopped by a signal.
        """
        _log_to_stdout()
        journal = Journal(Path(job.folder))
        end = ends(60 * job.minutes)
        rank, size = _place()
        share = _share(job.groups, rank, size)
        ahead = list(share)  # the one that is on is the first
        problems: list[str] = []
        with listening(signal.SIGTERM, signal.SIGUSR2):
            try:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})  # see bench.launch.start
                discover()
                _say_code(job, journal)
                while ahead:
                    problems += (found := _do(ahead[0], journal))
                    if found and ahead[0].together:
                        _end_step(rank, found[0])
                    del ahead[0]
            except Interrupted as stop:
                _stop(job, ahead, stop, journal, end)
        journal.write("end", problems=problems)
        if problems:
            raise JobFailed(f"{len(problems)} of {len(share)} batched runs did not end well")

    def checkpoint(self, job: Job) -> object:
        """What submitit is to start again if the signal comes before or after our own handlers are in place."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, job)


def _log_to_stdout() -> None:
    if not log.handlers:
        log.addHandler(logging.StreamHandler(sys.stdout))
    log.setLevel(logging.INFO)
    log.propagate = False  # submitit has a handler of its own at the root


def _place() -> tuple[int, int]:
    """This process's number and how many there are; each one takes one of the node's GPUs."""
    visible, local = os.environ.get("CUDA_VISIBLE_DEVICES", ""), int(os.environ.get("SLURM_LOCALID") or 0)
    if "," in visible:
        gpus = visible.split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[local % len(gpus)]
    return int(os.environ.get("SLURM_PROCID") or 0), int(os.environ.get("SLURM_NTASKS") or 1)


def _share(groups: list[Group], rank: int, size: int) -> list[Group]:
    """The batched runs of one process of the job: every so-many-th, and those that all processes fit together."""
    return [group for i, group in enumerate(groups) if group.together or i % size == rank]


def _end_step(rank: int, problem: str) -> NoReturn:
    """End all processes of the job: the others may wait in an operation that this one will never join.

    Those that only help wait first: what failed in all processes is for the first one to record.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if rank > 0:
        time.sleep(TIME_TO_RECORD)
    message = f"processes that train together end together; submit again for what is left ({problem})"
    log.error(message)  # now: SLURM kills this one, too, when its time to end is over
    step = f"{os.environ.get('SLURM_JOB_ID')}.{os.environ.get('SLURM_STEP_ID')}"
    with suppress(OSError, subprocess.SubprocessError):
        subprocess.run(["scancel", step], capture_output=True, timeout=60)
    raise JobFailed(message)


def _left(group: Group) -> list[int]:
    """The seeds of a batched run without a record, or with the one that is to be replaced."""
    config, store = group.config, Store(group.config.results)
    kept = [store.get(config.run_id(seed), config.target["name"], config.method["name"]) for seed in config.seeds]
    return [
        seed
        for seed, record in zip(config.seeds, kept, strict=True)
        if record is None or group.redo.get(seed) == record["created"]
    ]


def _next(groups: list[Group]) -> Group | None:
    """The first batched run with something left: what is on, or what would have been next."""
    for group in groups:
        with suppress(UserError):  # a record that cannot be read is for ``_do`` to tell
            if _left(group):
                return group
    return None


def _say_code(job: Job, journal: Journal) -> None:
    sha, dirty = git_state()
    drifted = source_digest() != job.source
    journal.write("start", git=sha, dirty=dirty, drifted=drifted)
    log.info("job %s, commit %s%s", journal.job, sha, " with local changes" if dirty else "")
    if drifted:
        log.warning("warning: the code is not the one submitted (commit %s); records name what ran", job.git)


def _do(group: Group, journal: Journal) -> list[str]:
    """Carry out one batched run; what went wrong, in words."""
    label = f"{group.config.method['name']} x {group.config.target['name']} ({group.config_id})"
    raise_pending()  # noted while the batched run before this one failed
    journal.write("begin", runs=group.runs)
    log.info("%s, seeds %s", label, group.config.seeds)
    problem = None
    try:
        config = replace(group.config)
        if config.config_id != group.config_id:
            raise UserError(
                f"{label} has become {config.config_id}: the code now gives this configuration another identity",
                "submit the sweep again",
            )
        left = _left(group)
        if left or group.together:  # processes may see different records: all come, and the first one decides
            records = execute(replace(config, seeds=left), retry=bool(group.redo), progress=log.info)
            busy = [record["seed"] for record in records if record["status"] == "running"]
            problem = f"{label}: seeds {busy} are running elsewhere" if busy else None
    except (RunFailed, UserError) as error:
        problem = str(error)
    # Whatever it is, the next batched run of this job has nothing to do with it.
    except Exception as error:
        traceback.print_exc()
        problem = f"{label}: {type(error).__name__}: {error}"
    if problem:
        log.error("error: %s", problem)
    _free()
    journal.write("done", runs=group.runs, problem=problem)
    return [problem] if problem else []


def _free() -> None:
    """Give a GPU's memory back: other processes may share it, and the next batched run is another size."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _stop(job: Job, ahead: list[Group], stop: Interrupted, journal: Journal, end: float) -> NoReturn:
    """The checkpoint is written; see to it that the job goes on.

    SIGTERM alone is SLURM's own doing (preemption, scancel, a lost race against the time limit): it starts the job
    again if it means to.  The warning signal comes before the time limit, or before a preemption.

    Args:
        ahead: this process's batched runs from the one that was on; all of them if none had begun.
    """
    for number in (signal.SIGTERM, signal.SIGUSR2):  # being requeued, it is told again to stop
        signal.signal(number, signal.SIG_IGN)
    if stop.number == signal.SIGTERM:
        journal.write("stopped", signal="SIGTERM")
        log.warning("stopped by SIGTERM; whoever starts this job again continues from the checkpoint")
        sys.exit(128 + stop.number)
    out_of_time = time.time() >= end - job.signal_seconds - EARLY
    if out_of_time:
        _count_time_limit(job, ahead, journal)
    _go_on(stop, "time limit" if out_of_time else "preemption", journal)


def _count_time_limit(job: Job, ahead: list[Group], journal: Journal) -> None:
    """Note another time limit of the runs that are on; after too many they are recorded as out of time.

    Raises:
        JobFailed: they were the last ones.
    """
    group = _next(ahead)
    runs = group.runs if group else []
    journal.write("timeout", runs=runs)
    times = len({event["restart"] for event in journal.events("timeout") if event.get("runs") == runs})
    if group is None or times <= job.timeouts:
        return
    _record_timeout(job, group, journal)
    if _next(ahead) is None:
        raise JobFailed(f"out of time {times} times (launcher.timeouts={job.timeouts})")
    log.warning("out of time %d times with %s; the job goes on with the next", times, ", ".join(runs))


def _go_on(stop: Interrupted, reason: str, journal: Journal) -> NoReturn:
    """Have the job started again.

    Raises:
        SystemExit: it will be.
        JobFailed: it could not be.
    """
    # Said first: SLURM kills a job that it requeues, on a slow node before this process hears the answer.
    journal.write("requeue asked", reason=reason)
    log.warning("%s: checkpoint written, asking to be requeued", reason)
    refusal = requeue()
    journal.write("requeued" if refusal is None else "requeue refused", reason=reason, detail=refusal)
    if refusal is None:
        sys.exit(128 + stop.number)
    # Often SLURM has requeued the job already; then nobody looks at how this process ends.
    log.warning("the job could not be requeued: %s", refusal)
    raise JobFailed(f"stopped by {reason} and not requeued: {refusal}")


def requeue() -> str | None:
    """Ask SLURM to start this job again later; None if it agrees, else what it says."""
    job = (current_job() or {"id": ""})["id"]
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return None if done.returncode == 0 else done.stderr.strip() or f"exit code {done.returncode}"


def _record_timeout(job: Job, group: Group, journal: Journal) -> None:
    config, store = group.config, Store(group.config.results)
    env = environment(resolve_device(config.device), threads=config.threads, compile=config.compile)
    text = f"out of time: {job.minutes} minutes, {job.timeouts + 1} times (job {journal.job})"
    with claim(store.claims, group.runs) as (granted, _):  # runs of other jobs are not ours to give up
        for seed in _left(group):
            if config.run_id(seed) in granted:
                cost = {"seeds_sharing": len(config.seeds), "attempts": job.timeouts + 1}
                store.put(new_record(config, seed, "timeout", env=env, cost=cost, error=text))
