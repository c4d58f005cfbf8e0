"""The device a configuration means on this machine."""

from __future__ import annotations

import platform
import resource
import time
from contextlib import suppress
from pathlib import Path

import torch

from bench.device_names import check_device_name
from bench.errors import UserError


def resolve_device(name: str) -> torch.device:
    """``auto`` is ``cuda`` or else the CPU; ``cuda`` is the process's own (the first, unless it shares a fit).

    A CUDA device becomes this process's: CUDA graphs are captured on the current one.  Its convolutions compute in
    float32, not in the TF32 that torch allows them by default.

    Raises:
        UserError: no name of a device, or a CUDA device that this machine does not have.
    """
    check_device_name(name)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type != "cuda":
        return device
    found = torch.cuda.device_count()
    if (device.index or 0) >= found:
        raise UserError(
            f"device={name} is not available: this machine has {found} CUDA devices", "use device=auto or device=cpu"
        )
    # without a number the one this process has: each of several that share a fit has its own
    index = torch.cuda.current_device() if device.index is None else device.index
    torch.cuda.set_device(index)
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda", index)


def clock(device: torch.device | str) -> float:
    """Seconds, for differences of work done on ``device``.

    With one CPU thread the process's own time: equal to wall time on an idle core and not disturbed by other
    processes.  Otherwise wall time, on CUDA after a synchronisation.
    """
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif torch.get_num_threads() == 1:
        return time.process_time()
    return time.perf_counter()


def hardware(device: torch.device, threads: int) -> str:
    """What times were taken on, in one line."""
    return f"{device_name(device)}, {threads} thread(s), torch {torch.__version__}"


def device_name(device: torch.device) -> str:
    """Name of the processor or accelerator, for the record."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def forget_peak(device: torch.device) -> None:
    """From now on ``peak_bytes`` is of what is held now and of what comes."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):  # Linux alone has it, and some containers do not let it be written
            Path("/proc/self/clear_refs").write_text("5")


def peak_bytes(device: torch.device) -> int:
    """Largest memory so far: of tensors on CUDA, on the CPU the resident size of this process (bytes)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage's maximum is at least that of the process this one was started from
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
