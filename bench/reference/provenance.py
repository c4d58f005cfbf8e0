"""Which code made a reference file: versions and the state of the repository."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "arviz-stats")


def provenance() -> dict[str, Any]:
    """Versions, git commit and whether package sources differ from it (None outside a repository of this project)."""
    versions = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    if _git("rev-parse", "--show-toplevel") != str(ROOT):  # installed, perhaps inside somebody else's repository
        return {"versions": versions, "git": None, "dirty": None}
    changes = _git("status", "--porcelain", "--", "bench", "methods", "targets", ":(exclude)targets/reference")
    return {"versions": versions, "git": _git("rev-parse", "HEAD"), "dirty": bool(changes)}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
