"""Peak memory of a fit, measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

import torch

from bench.config import compose
from bench.device import peak_bytes, resolve_device
from bench.errors import UserError
from bench.speed.measure import batched

ITERATIONS = 3
"""Every iteration needs the same."""


def peak_of_fit(overrides: Sequence[str], device: torch.device, seeds: int, mode: str) -> int:
    """Largest memory (bytes) of a process that traces, compiles if so, and runs a few iterations of ``seeds`` seeds.

    On the CPU its resident size, torch and its compiler included; on CUDA what its tensors take.

    Raises:
        UserError: the process ended with an error, for example for lack of memory.
    """
    arguments = json.dumps([list(overrides), str(device), seeds, mode, torch.get_num_threads()])
    command = [sys.executable, "-c", f"from {__name__} import report; report()", arguments]
    run = subprocess.run(command, check=False, capture_output=True, text=True)
    if run.returncode:
        raise UserError(
            f"the fit whose memory was to be measured ended with status {run.returncode}: {run.stderr[-500:]}",
            "try fewer seeds, or leave --memory out",
        )
    return int(run.stdout.split()[-1])


def report() -> None:
    """Of the process that is measured: fit as the argument says, and print the peak."""
    overrides, name, seeds, mode, threads = json.loads(sys.argv[1])
    torch.set_num_threads(threads)
    device = resolve_device(name)
    batched(compose(overrides), device, seeds, mode).step(ITERATIONS)
    print(peak_bytes(device))
