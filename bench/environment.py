"""Where a run was made: code, versions, machine."""

from __future__ import annotations

import hashlib
import inspect
import os
import platform
import socket
import subprocess
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from bench.device import device_name

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("bench", "methods", "targets", "conf")
"""Folders whose files decide the numbers."""

_SUFFIXES = {".py", ".cpp", ".hpp", ".yaml", ".npz", ".json"}
_LIBRARIES = ("numpy", "scipy", "zuko", "hydra-core")


def environment(device: torch.device, *, threads: int, compile: bool) -> dict[str, Any]:
    """The ``env`` block of a record."""
    sha, dirty = git_state()
    return {
        "git": sha,
        "dirty": dirty,
        "source": source_digest(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": str(device),
        "device_name": device_name(device),
        "host": socket.gethostname(),
        "threads": threads,
        "compile": compile,
        "packages": {name: found for name in _LIBRARIES if (found := _version(name)) is not None},
    }


@cache
def source_digest() -> str:
    """SHA-256 over names and contents of the package's own files; cached, so it is that of the code first run."""
    digest = hashlib.sha256()
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.suffix in _SUFFIXES)
    for name, path in sorted((path.relative_to(ROOT).as_posix(), path) for path in files):
        digest.update(f"{name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def plugins(*components: object) -> dict[str, str]:
    """Files outside the package that define these classes, with the first digits of their sha256.

    By name; by folder and name where two files have the same.
    """
    paths = dict.fromkeys(Path(inspect.getsourcefile(component) or "") for component in components)  # type: ignore[arg-type]
    own = [path for path in paths if path.is_file() and not any(path.is_relative_to(ROOT / p) for p in PACKAGES)]
    names, found = [path.name for path in own], {}
    for path in own:
        name = path.name if names.count(path.name) == 1 else f"{path.parent.name}/{path.name}"
        found[name] = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return found


@cache
def git_state(packages: Sequence[str] = PACKAGES) -> tuple[str | None, bool | None]:
    """Commit and whether the files of these folders (or git's pathspecs) differ from it.

    Without a repository the commit is that of ``SIVIBENCH_GIT_SHA``, if set, and ``dirty`` is unknown (None).
    """
    # An installed copy may lie inside somebody else's repository: only the project's own top level counts.
    if _git("rev-parse", "--show-toplevel") == str(ROOT):
        sha = _git("rev-parse", "HEAD")
        if sha:
            return sha, bool(_git("status", "--porcelain", "--", *packages))
    return os.environ.get("SIVIBENCH_GIT_SHA"), None


def unknown_commits(shas: Iterable[str]) -> list[str]:
    """Those of the commits that this repository does not have; none outside the project's, or in a shallow clone."""
    if _git("rev-parse", "--show-toplevel") != str(ROOT) or _git("rev-parse", "--is-shallow-repository") != "false":
        return []
    return [sha for sha in shas if _git("cat-file", "-e", f"{sha}^{{commit}}") is None]


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=20)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None
