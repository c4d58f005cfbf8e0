"""Writing JSON so that a reader never sees half a file, and file-system troubles in words."""

from __future__ import annotations

import errno
import json
import math
import os
import uuid
from pathlib import Path
from typing import Any

from bench.errors import UserError

TEMPORARY = ".tmp"
"""Suffix of files being written."""

_REMEDIES = {
    errno.ENOSPC: ("the disk is full", "free some space"),
    errno.EDQUOT: ("the disk quota is used up", "free some space"),
    errno.EACCES: ("no permission", "make the folder writable or give another one with --results"),
    errno.EPERM: ("no permission", "make the folder writable or give another one with --results"),
    errno.EROFS: ("the file system is read-only", "give another folder with --results"),
    errno.ENOTDIR: ("part of the path is a file, not a folder", "move that file or give another folder with --results"),
    errno.EEXIST: ("part of the path is a file, not a folder", "move that file or give another folder with --results"),
    errno.EISDIR: ("it is a folder", "give the name of a file"),
    errno.ENAMETOOLONG: ("the name is too long", "give a shorter one"),
}


def explain_os_error(path: Path | str, error: OSError, remedy: str = "") -> UserError | None:
    """The message for a full disk, a missing permission and their like; None for anything else.

    Args:
        path: what could not be written, or not even read.
        error: why.
        remedy: what to do, where it is not about a results folder.
    """
    if error.errno not in _REMEDIES:
        return None
    what, usual = _REMEDIES[error.errno]
    if error.errno in (errno.EACCES, errno.EPERM) and os.path.isfile(path) and not os.access(path, os.R_OK):
        return UserError(f"cannot read {path}: {what}", "make it readable for yourself")
    return UserError(
        f"cannot write {path}: {what}", remedy or f"{usual} and repeat the command; finished runs are kept"
    )


def write_json_atomic(path: Path, payload: dict[str, Any]) -> None:
    """Write ``payload``, one top-level key per line; NaN and infinities become null.

    Raises:
        UserError: as ``write_atomic``.
    """
    lines = ",\n".join(
        f"{json.dumps(key)}: {json.dumps(_finite(value), allow_nan=False)}" for key, value in payload.items()
    )
    write_atomic(path, ("{" + lines + "}\n").encode())


def write_atomic(path: Path, *content: bytes | memoryview) -> None:
    """Write a file that appears complete or not at all: written beside its place, flushed to the disk and renamed.

    A link is replaced by the file, and the folder has to be writable.

    Args:
        path: its place.
        content: its parts, one after another.

    Raises:
        UserError: full disk, no permission, read-only file system, a folder of that name, no such place.
    """
    # Not tempfile: its files are readable by the owner only, and results are shared on clusters.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{TEMPORARY}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "xb") as stream:
                stream.writelines(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except FileNotFoundError as error:  # a link to nowhere, or a file system like /proc
        raise UserError(f"cannot write {path}: its folder cannot be made", "give another place") from error
    except OSError as error:
        problem = explain_os_error(path, error)
        if problem is None:
            raise
        raise problem from error


def check_place(path: Path) -> None:
    """Before the work whose result a file is to hold: whether it can be written, as far as one can see without trying.

    Raises:
        UserError: a folder or a device has its name, or the folder it goes to cannot be made or written.
    """
    try:
        code = _obstacle(path)
    except OSError as error:  # the name is too long, a parent cannot be read
        code = error.errno or 0
    if code and (problem := explain_os_error(path, OSError(code, os.strerror(code)), "name another file")):
        raise problem


def _obstacle(path: Path) -> int:
    """Why a file cannot be written there, as an error number; 0 if it can."""
    if path.exists() and not path.is_file() and not path.is_dir():  # to be renamed over: /dev/stdout would be gone
        raise UserError(f"cannot write {path}: it is no ordinary file", "name another file")
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    if path.is_dir():
        return errno.EISDIR
    if there != path and not there.is_dir():
        return errno.ENOTDIR
    writable = os.access(path.parent if there == path else there, os.W_OK | os.X_OK)
    return 0 if writable else errno.EACCES


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
