"""``torch.distributed``: every process that ``torchrun`` or ``srun`` has started finds the others.

For fits on several GPUs (``train.processes``); a sweep's small runs are independent and do not need it.
"""

from __future__ import annotations

import atexit
import gc
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache

import torch
import torch.distributed

from bench.errors import UserError

PATIENCE = timedelta(days=2)
"""How long a process waits for the others: the first one evaluates, which may take hours."""

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_SRUN = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")


@dataclass(frozen=True)
class World:
    """This process among those of the job: its number, how many there are, its number on its node."""

    rank: int
    size: int
    local_rank: int


def world() -> World:
    """The job this process belongs to.

    Raises:
        UserError: neither torchrun nor srun has started it.
    """
    for keys in (_TORCHRUN, _SRUN):
        if all(key in os.environ for key in keys):
            return World(*(int(os.environ[key]) for key in keys))
    raise UserError(
        "this process is alone", "start it with torchrun or srun, or through a site profile with several GPUs"
    )


@lru_cache(maxsize=1)
def join() -> World:
    """Find the other processes once, for the rest of this process's life; each takes a GPU of its own.

    Raises:
        UserError: as ``world`` and ``process_group``.
    """
    here = _begin(None)
    atexit.register(_leave)
    return here


@contextmanager
def process_group(backend: str | None = None) -> Iterator[World]:
    """The default process group of ``torch.distributed`` for the length of the block.

    Args:
        backend: ``nccl`` with GPUs and ``gloo`` without, unless given.

    Raises:
        UserError: not inside a job step, or the first node's address cannot be found.
    """
    here = _begin(backend)
    try:
        yield here
    finally:
        _leave()


def _leave() -> None:
    """Give the group up and end its threads now.

    The group lies in a reference cycle: left to the interpreter's last collection, a thread of gloo's that still drops
    a tensor then meets an interpreter that is gone, and aborts a process whose work is done.
    """
    torch.distributed.destroy_process_group()
    gc.collect()


def _begin(backend: str | None) -> World:
    here = world()
    if all(key in os.environ for key in _TORCHRUN):
        meeting = "env://"
    else:
        port = 20000 + int(os.environ["SLURM_JOB_ID"]) % 20000  # jobs that share a node must not share a port
        meeting = f"tcp://{first_address()}:{port}"
    if torch.cuda.is_available():
        torch.cuda.set_device(here.local_rank % torch.cuda.device_count())
    torch.distributed.init_process_group(
        backend or ("nccl" if torch.cuda.is_available() else "gloo"),
        init_method=meeting,
        rank=here.rank,
        world_size=here.size,
        timeout=PATIENCE,
    )
    return here


def first_address() -> str:
    """Address of the job's first node, as SLURM knows it: node names need not resolve.

    Raises:
        UserError: SLURM does not tell.
    """
    nodes = _scontrol("show", "hostnames", os.environ.get("SLURM_STEP_NODELIST") or os.environ["SLURM_JOB_NODELIST"])
    found = re.search(r"NodeAddr=(\S+)", _scontrol("show", "node", nodes.split()[0]))
    if found is None:
        raise UserError(f"SLURM does not tell the address of {nodes.split()[0]}", "look at `scontrol show node`")
    return found[1]


def _scontrol(*arguments: str) -> str:
    try:
        return subprocess.run(["scontrol", *arguments], capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(f"scontrol {' '.join(arguments)} failed: {error}", "torch.distributed needs it here") from error


def check() -> float:
    """A sum over all processes (each adds its rank + 1), to see whether they find each other: ``python -m`` this."""
    with process_group() as here:
        value = torch.tensor([float(here.rank + 1)])
        if torch.distributed.get_backend() == "nccl":
            value = value.cuda(here.local_rank % torch.cuda.device_count())
        torch.distributed.all_reduce(value)
        print(
            f"process {here.rank} of {here.size} on {os.environ['SLURMD_NODENAME']}: sum {value.item():g}", flush=True
        )
        return float(value)


if __name__ == "__main__":
    check()
