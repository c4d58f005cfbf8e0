"""Where files lie that are not in the repository: the user's data and the cache.  Environment:

SIVIBENCH_DATA    folder of data files that are already here; looked into first
SIVIBENCH_CACHE   folder for what is downloaded, trained or compiled (default: the user's cache folder)
"""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_dir


def data_folder() -> Path | None:
    """``SIVIBENCH_DATA``; None if it is not set."""
    folder = os.environ.get("SIVIBENCH_DATA")
    return Path(folder).expanduser() if folder else None


def cache_folder() -> Path:
    """``SIVIBENCH_CACHE``, else the user's cache folder of this project."""
    folder = os.environ.get("SIVIBENCH_CACHE")
    return Path(folder).expanduser() if folder else Path(user_cache_dir("sivibench"))


def data_places(name: str) -> list[Path]:
    """Where the data file or folder ``name`` is looked for, in this order."""
    data = data_folder()
    return [*([data / name] if data else []), cache_folder() / name]
