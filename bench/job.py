"""Which SLURM job this process belongs to, if any, and when its time is over."""

from __future__ import annotations

import os
import re
import subprocess
import time
from datetime import datetime
from typing import Any


def current_job() -> dict[str, Any] | None:
    """``{"id": "12_3", "restart": 0}``: the job as ``squeue`` names it and how often it was requeued; None outside."""
    number = os.environ.get("SLURM_JOB_ID")
    if number is None:
        return None
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return {"id": f"{array}_{task}" if array and task else number, "restart": restarts()}


def restarts() -> int:
    """How often SLURM has requeued the job of this process."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0)


def ends(limit: float) -> float:
    """When this job's time is over, in seconds since 1970; to be asked early, while there is time to ask.

    Its time runs before any Python does (set-up lines, imports), so it is SLURM that must say: in the environment, or
    (version 22.05) if asked.  Asked for is the start, since a preemption moves the end.  Where SLURM does not answer,
    the time is counted from now.

    Args:
        limit: time limit, seconds.
    """
    end, start = (os.environ.get(f"SLURM_JOB_{which}_TIME", "") for which in ("END", "START"))
    if end.isdigit() and int(end):
        return float(end)
    if start.isdigit() and int(start):
        return float(start) + limit
    asked = _asked_start()
    return (time.time() if asked is None else asked) + limit


def _asked_start() -> float | None:
    job, plain = os.environ.get("SLURM_JOB_ID"), {k: v for k, v in os.environ.items() if k != "SLURM_TIME_FORMAT"}
    if job is None:
        return None
    command = ["scontrol", "-o", "show", "job", job]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, env=plain)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"\bStartTime=(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)", done.stdout)
    return datetime.fromisoformat(found[1]).timestamp() if found else None  # in local time, as scontrol writes it
