"""What SLURM knows of jobs: the controller first, accounting for those it has forgotten, nothing if neither answers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.errors import UserError

PATIENCE = 6.0
"""Seconds to wait for an answer."""

LIVE = {
    "PENDING",
    "RUNNING",
    "CONFIGURING",
    "COMPLETING",
    "SUSPENDED",
    "REQUEUED",
    "RESIZING",
    "SIGNALING",
    "STAGE_OUT",
}

NEVER = re.compile(
    "PartitionConfig|PartitionNodeLimit|PartitionTimeLimit|BadConstraints|InvalidAccount|InvalidQOS|MaxMemPerLimit"
    r"|(QOS|Assoc)Max\w+Per(Job|Node)\w*|(QOS|Assoc)MaxWall\w*"
)
"""Reasons for which a job waits until somebody changes it or the cluster's limits."""


@dataclass(frozen=True)
class JobState:
    """A job as SLURM sees it.

    Attributes:
        state: SLURM's word, e.g. ``RUNNING``.
        reason: why it waits or how it ended; may be empty.
        nodes: where it runs.
    """

    state: str
    reason: str = ""
    nodes: str = ""

    @property
    def live(self) -> bool:
        return self.state in LIVE

    @property
    def stuck(self) -> bool:
        """Whether it waits for something that time alone does not bring."""
        return self.state == "PENDING" and NEVER.fullmatch(self.reason) is not None


@dataclass(frozen=True)
class Queue:
    """Answers about the jobs asked for; ``reached`` tells whether SLURM answered at all."""

    jobs: dict[str, JobState]
    reached: bool

    def get(self, job: str) -> JobState | None:
        return self.jobs.get(job)


def ask(jobs: Iterable[str]) -> Queue:
    """The states of jobs (``12`` or ``12_3``); those that nobody remembers are absent."""
    wanted = set(jobs)
    arrays = sorted({job.partition("_")[0] for job in wanted}, key=int)
    if not arrays or shutil.which("scontrol") is None:
        return Queue({}, not arrays)
    found: dict[str, JobState] = {}
    reached = True
    for array in arrays:
        done = _call(["scontrol", "-o", "show", "job", array])
        if done is None or (done.returncode and "Invalid job id" not in done.stderr):
            reached = False  # one silence is enough: every further question would wait as long
            break
        found |= parse_scontrol(done.stdout)
    forgotten = {job.partition("_")[0] for job in wanted - set(found)}
    if reached and forgotten and shutil.which("sacct"):
        command = ["sacct", "-X", "-n", "-P", "-o", "JobID,State,ExitCode,NodeList", "-j", ",".join(sorted(forgotten))]
        accounted = _call(command)
        if accounted is not None and accounted.returncode == 0:
            found = parse_sacct(accounted.stdout) | found
    return Queue({job: found[job] for job in wanted & set(found)}, reached)


def check_slurm(partition: str | None) -> None:
    """Whether jobs can be submitted here.

    Raises:
        UserError: no SLURM, its controller does not answer, or there is no such partition.
    """
    done = _call(["sinfo", "-h", "-o", "%R"])
    if done is None or done.returncode or not _submits():
        raise silence(done.stderr if done else "")
    known = sorted(set(done.stdout.split()))
    unknown = [name for name in (partition or "").split(",") if name and name not in known]
    if unknown:
        raise UserError(
            f"there is no partition {unknown[0]!r} on this cluster",
            f"set `partition` in the site profile to one of: {', '.join(known)}",
        )


def silence(detail: str = "") -> UserError:
    """Why SLURM does not answer.

    Args:
        detail: what its program said.
    """
    if not _submits():
        return UserError(
            "there is no SLURM here: sbatch and srun are not on PATH",
            "submit from a login node of the cluster, or run the sweep here with launcher=local",
        )
    said = f": {detail.strip().splitlines()[-1]}" if detail.strip() else ""
    return UserError(f"SLURM's controller does not answer{said}", "repeat the command later; nothing was submitted")


def _submits() -> bool:
    return shutil.which("sbatch") is not None and shutil.which("srun") is not None


def cancel(jobs: Sequence[str]) -> None:
    """Cancel jobs.

    Raises:
        UserError: scancel failed.
    """
    for start in range(0, len(jobs), 500):
        done = _call(["scancel", *jobs[start : start + 500]], patience=60)
        if done is None or done.returncode:
            detail = done.stderr.strip() if done else "no answer"
            raise UserError(f"scancel failed: {detail}", "repeat the command later")


def parse_scontrol(text: str) -> dict[str, JobState]:
    """Jobs in the output of ``scontrol -o show job``; waiting elements of an array stand in one line together."""
    found = {}
    for line in text.splitlines():
        fields = dict(re.findall(r"(\S+?)=(\S*)", line))
        if "JobId" not in fields:
            continue
        state = fields["JobState"]
        reason = "" if fields.get("Reason") in (None, "None") else fields["Reason"]
        nodes = "" if fields.get("NodeList") in (None, "(null)") else fields["NodeList"]
        job = JobState(state, reason if state in LIVE else ending(state, fields.get("ExitCode", ""), reason), nodes)
        if "ArrayTaskId" in fields:
            for task in _tasks(fields["ArrayTaskId"]):
                found[f"{fields['ArrayJobId']}_{task}"] = job
        else:
            found[fields["JobId"]] = job
    return found


def parse_sacct(text: str) -> dict[str, JobState]:
    """Jobs in the output of ``sacct -X -n -P -o JobID,State,ExitCode,NodeList``."""
    found = {}
    for line in text.splitlines():
        job, state, code, nodes = (line.split("|") + ["", "", ""])[:4]
        word = state.partition(" ")[0]
        array, bracket, tasks = job.partition("_[")
        names = [f"{array}_{task}" for task in _tasks(tasks.rstrip("]"))] if bracket else [job]
        for name in names:
            found[name] = JobState(word, "" if word in LIVE else ending(word, code, ""), nodes)
    return found


def ending(state: str, code: str, reason: str) -> str:
    """How a job ended, in words."""
    exit_code, _, number = code.partition(":")
    if state == "FAILED":
        killer = int(number or 0) or (int(exit_code or 0) - 128 if int(exit_code or 0) > 128 else 0)
        if killer == 9:
            return "killed by SIGKILL (memory, or somebody)"
        return f"killed by signal {killer}" if killer else f"ended with exit code {exit_code or '?'}"
    words = {
        "CANCELLED": "cancelled (scancel)",
        "TIMEOUT": "time limit",
        "OUT_OF_MEMORY": "out of memory",
        "NODE_FAIL": "node lost",
        "PREEMPTED": "preempted and not requeued",
        "COMPLETED": "",
    }
    return words.get(state, reason or state.lower())


def _tasks(text: str) -> list[int]:
    """``0,3-5%2`` -> [0, 3, 4, 5]."""
    found: list[int] = []
    for part in text.partition("%")[0].split(","):
        first, _, last = part.partition("-")
        if first.isdigit():
            found += range(int(first), int(last.partition(":")[0] or first) + 1)
    return found


def _call(command: list[str], patience: float = PATIENCE) -> subprocess.CompletedProcess[str] | None:
    # Otherwise the waiting elements of an array that has gaps are cut off after 64 characters.
    environment = os.environ | {"SLURM_BITSTR_LEN": "0"}
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=patience, env=environment)
    except (OSError, subprocess.TimeoutExpired):
        return None
