"""Weight files of others: looked for on this machine, checked by their sha256, never downloaded."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from bench.errors import UserError
from bench.places import data_places
from targets.fetch import sha256_of

FOLDER = "features"
"""Folder of such files, in ``SIVIBENCH_DATA`` or in the cache."""


@dataclass(frozen=True)
class WeightFile:
    """Name, public address, sha256 and size of a weight file."""

    name: str
    url: str
    sha256: str
    megabytes: int

    def places(self) -> list[Path]:
        """Where it is looked for, in this order."""
        return data_places(f"{FOLDER}/{self.name}")

    def lacking(self) -> str | None:
        """Which file is missing, and where to get it; None if it is there."""
        if any(path.is_file() for path in self.places()):
            return None
        return f"no file {' or '.join(map(str, self.places()))}; {self._remedy()}"

    def path(self) -> Path:
        """The file, its content checked.

        Raises:
            UserError: it is missing or another one.
        """
        path = next((path for path in self.places() if path.is_file()), None)
        if path is None:
            raise UserError(f"no file {' or '.join(map(str, self.places()))}", self._remedy())
        if (found := _digest(path, path.stat().st_mtime_ns)) != self.sha256:
            raise UserError(f"{path} has sha256 {found}", self._remedy())
        return path

    def _remedy(self) -> str:
        return f"download {self.url} ({self.megabytes} MB, sha256 {self.sha256}) by hand and put it there"


@lru_cache(maxsize=8)
def _digest(path: Path, changed: int) -> str:
    return sha256_of(path)
