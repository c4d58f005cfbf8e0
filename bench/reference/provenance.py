"""Which code made a reference file: versions and the state of the repository."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

from bench.environment import git_state

LIBRARIES = ("torch", "numpy", "scipy", "scikit-learn", "arviz-stats")
SOURCES = ("bench", "methods", "targets", ":(exclude)targets/reference")


def provenance() -> dict[str, Any]:
    """Versions, git commit and whether package sources differ from it (None outside a repository of this project)."""
    versions = {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}
    sha, dirty = git_state(SOURCES)
    return {"versions": versions, "git": sha, "dirty": dirty}
