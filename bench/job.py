"""Which SLURM job this process belongs to, if any."""

from __future__ import annotations

import os
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
