"""Who is working on which run, so that two processes never do the same one.

A claim is a file made with O_EXCL.  Its owner refreshes the file's time; a claim whose process is gone, or whose
time is old, is stale and may be taken over.  The taker first claims the right to replace exactly that claim (its
token is part of the name), makes sure that it still stands, and renames its own claim over it: of several takers
one wins, and a taker that dies half-way leaves a claim that is itself stale.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from bench.files import explain_os_error
from bench.job import current_job

HEARTBEAT = 15.0
"""Seconds between refreshes."""

EXPIRY = 600.0
"""Seconds without a refresh after which a claim counts as dead."""

HIDDEN = "hidden"
"""Instead of the start of a process that is there, but is not shown to us."""


@contextmanager
def claim(
    folder: Path, run_ids: Sequence[str], about: Mapping[str, Any] | None = None
) -> Iterator[tuple[list[str], dict[str, dict[str, Any]]]]:
    """Claim runs for the length of the ``with`` block.

    Args:
        folder: where claims are kept.
        run_ids: what to claim.
        about: stored in the claim beside host, pid and start.

    Yields:
        ``(granted, busy)``: the run ids that are ours, and those of others with their claims.

    Raises:
        UserError: the folder cannot be written.
    """
    granted: dict[str, str] = {}
    busy: dict[str, dict[str, Any]] = {}
    stop = threading.Event()
    thread = threading.Thread(target=_beat, args=(folder, granted, stop), daemon=True)
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for run_id in run_ids:
                token = _acquire(_path(folder, run_id), dict(about or {}))
                if token is None:
                    busy[run_id] = _told(_path(folder, run_id))
                else:
                    granted[run_id] = token
        except OSError as error:
            problem = explain_os_error(folder, error)
            if problem is None:
                raise
            raise problem from error
        thread.start()
        yield list(granted), busy
    finally:
        stop.set()
        if thread.ident is not None:
            thread.join()
        for run_id, token in granted.items():
            _release(_path(folder, run_id), token)


def standing(folder: Path) -> dict[str, dict[str, Any]]:
    """Live claims by run id; those that cannot be read are empty."""
    return {path.stem: _told(path) for path in sorted(folder.glob("*.json")) if not is_stale(path)}


def stale(folder: Path) -> list[Path]:
    """Claims and take-overs that nobody keeps up any more."""
    return [path for path in sorted(folder.glob("*")) if path.is_file() and is_stale(path)]


def is_stale(path: Path) -> bool:
    """Whether the claim's process is gone (seen on the same machine only) or its last refresh too old."""
    try:
        age = time.time() - path.stat().st_mtime
        owner = _read(path)
    except OSError:
        return False  # gone, or not to be read now: then nothing says that its process is dead
    job = current_job()
    before = (owner or {}).get("job")
    if job is not None and before is not None and before["id"] == job["id"] and before["restart"] < job["restart"]:
        return True  # ours, from before the job was requeued: its node may be lost, so nobody could release it
    if owner is not None and (owner.get("host"), owner.get("boot")) == (socket.gethostname(), _boot()):
        return age > EXPIRY or _start_of(owner["pid"]) not in (owner["process_start"], HIDDEN)
    return age > EXPIRY


def expire(folder: Path, run_id: str, token: str) -> None:
    """Let a claim count as dead from now on, unless it is another one by now (``token`` is that of the dead one).

    An owner that lives after all refreshes it within ``HEARTBEAT``.
    """
    if _has(path := _path(folder, run_id), token):
        with suppress(OSError):
            os.utime(path, (0, 0))


def _path(folder: Path, run_id: str) -> Path:
    return folder / f"{run_id}.json"


def _acquire(path: Path, about: dict[str, Any]) -> str | None:
    """The token of our new claim at ``path``, or None if somebody holds it."""
    token = uuid.uuid4().hex
    if _create(path, token, about):
        return token
    try:
        old = _token(path)
    except OSError:
        return None
    if old is None:  # released a moment ago
        return token if _create(path, token, about) else None
    if not is_stale(path):
        return None
    right = path.with_name(f"{path.name}.{old}")
    token_of_right = _acquire(right, about)
    if token_of_right is None:
        return None
    if not _has(path, old):
        _release(right, token_of_right)
        return None
    os.replace(right, path)
    return token_of_right


def _create(path: Path, token: str, about: dict[str, Any]) -> bool:
    claim = about | {
        "token": token,
        "host": socket.gethostname(),
        "boot": _boot(),
        "pid": os.getpid(),
        "process_start": _start_of(os.getpid()),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    job = current_job()
    if job is not None:
        claim["job"] = job
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    try:
        os.write(handle, json.dumps(claim).encode())
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)
    return True


def _release(path: Path, token: str) -> None:
    # Only our own: after a long suspension the claim may be somebody else's by now.
    if _has(path, token):
        path.unlink(missing_ok=True)


def _beat(folder: Path, granted: dict[str, str], stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT):
        for run_id, token in granted.items():
            path = _path(folder, run_id)
            if _has(path, token):
                # Taken away between the two calls, or the file system is in trouble: the next beat tries again.
                with suppress(OSError):
                    os.utime(path)


def _read(path: Path) -> dict[str, Any] | None:
    """The claim at ``path``; None if it is gone or garbled (its writer may be half-way).

    Raises:
        OSError: it is there, but cannot be read now.
    """
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) and {"token", "pid", "process_start"} <= found.keys() else None


def _told(path: Path) -> dict[str, Any]:
    """What the claim at ``path`` says, as far as it can be read."""
    try:
        return _read(path) or {}
    except OSError:
        return {}


def _has(path: Path, token: str) -> bool:
    """Whether the claim at ``path`` is known to be the one with this token."""
    try:
        return _token(path) == token
    except OSError:
        return False


def _token(path: Path) -> str | None:
    """Token of the claim at ``path``; its inode if it is garbled; None without a file.

    Raises:
        OSError: it is there, but cannot be read now.
    """
    owner = _read(path)
    if owner is not None:
        return str(owner["token"])
    try:
        return f"inode{path.stat().st_ino}"
    except FileNotFoundError:
        return None


@cache
def _boot() -> str | None:
    file = Path("/proc/sys/kernel/random/boot_id")
    return file.read_text().strip() if file.is_file() else None


def _start_of(pid: int) -> str | None:
    """Something that differs between a process and a later one with the same pid; None if there is none.

    Where /proc shows everybody only processes of their own (``hidepid``), those of others are ``HIDDEN``.
    """
    absent: str | None = None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:  # somebody else's, so it is there
        absent = HIDDEN
    stat = Path(f"/proc/{pid}/stat")
    try:
        fields = stat.read_text().rpartition(")")[2].split()
    except PermissionError:
        return HIDDEN
    except (FileNotFoundError, ProcessLookupError):
        return absent if Path("/proc/self/stat").exists() else "alive"
    return None if fields[0] == "Z" else fields[19]
