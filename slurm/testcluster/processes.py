"""Processes of the test cluster: found by what they carry, ended for certain.  Linux only (/proc)."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie counts as gone, since where PID 1 reaps slowly it stays for seconds."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def end(pids: Iterable[int], *, patience: float = 3.0) -> None:
    """Ask by SIGTERM, then insist by SIGKILL."""
    left = [pid for pid in pids if alive(pid)]
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + patience
        while left and time.monotonic() < deadline:
            time.sleep(0.02)
            left = [pid for pid in left if alive(pid)]


def kill(pids: Iterable[int]) -> None:
    """SIGKILL at once, as when a machine loses its power."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def carrying(**variables: str) -> Iterator[int]:
    """Pids of processes whose environment has these values, this one excepted."""
    wanted = {f"{key}={value}".encode() for key, value in variables.items()}
    for pid, content in _proc("environ"):
        if wanted <= set(content.split(b"\0")) and pid != os.getpid():
            yield pid


def working_in(folder: Path) -> Iterator[int]:
    """Pids of processes whose working directory is below ``folder``, this one excepted."""
    for path in Path("/proc").iterdir():
        with suppress(OSError):
            if (
                path.name.isdigit()
                and (path / "cwd").readlink().is_relative_to(folder)
                and int(path.name) != os.getpid()
            ):
                yield int(path.name)


def called(*words: str) -> Iterator[int]:
    """Pids of processes whose command line contains all of ``words``, this one excepted."""
    for pid, content in _proc("cmdline"):
        text = content.replace(b"\0", b" ").decode(errors="replace")
        if all(word in text for word in words) and pid != os.getpid():
            yield pid


def _proc(file: str) -> Iterator[tuple[int, bytes]]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                yield int(folder.name), (folder / file).read_bytes()
