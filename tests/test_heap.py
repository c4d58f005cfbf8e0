"""What a step frees stays with the process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bench.fit.heap import keep_freed_memory

STEPS = """
import resource, sys, torch
from bench.fit.heap import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
faults = []
for _ in range(20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    arrays = [torch.empty(1 << 20).fill_(1) for _ in range(4)]
    del arrays
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(max(faults[10:]))
"""


def test_steps_with_arrays_of_megabytes_ask_the_system_for_no_pages() -> None:
    """Four arrays of 4 MiB are 4096 pages, handed out and cleared at each step where the C library keeps none."""
    if not keep_freed_memory():
        pytest.skip("not glibc")

    def pages(how: str) -> int:
        keeps_none = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072"}
        command = [sys.executable, "-c", STEPS, how]
        return int(subprocess.run(command, env=keeps_none, check=True, capture_output=True).stdout)

    assert pages("keep") < 50 < 1000 < pages("leave")
