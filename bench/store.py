"""The folder of records: ``<results>/runs/<target>/<method>/<run_id>.json``, nothing else is the truth."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.files import TEMPORARY, explain_os_error, write_json_atomic
from bench.record import read_record

Record = dict[str, Any]


class Store:
    """Records below one results folder.

    Args:
        results: the folder; it need not exist yet.
    """

    def __init__(self, results: Path | str) -> None:
        self.root = Path(results)
        self.runs = self.root / "runs"
        self.artifacts = self.root / "artifacts"
        self.claims = self.artifacts / "claims"
        self.logs = self.artifacts / "logs"
        self.sweeps = self.artifacts / "sweeps"
        self.parameters = self.artifacts / "parameters"

    def path(self, run_id: str, target: str, method: str) -> Path:
        """Where a run's record lies."""
        return self.runs / target / method / f"{run_id}.json"

    def get(self, run_id: str, target: str, method: str) -> Record | None:
        """A run's record, None if there is none.

        Raises:
            UserError: the record is corrupt.
        """
        path = self.path(run_id, target, method)
        return read_record(path) if path.exists() else None

    def put(self, record: Record) -> Path:
        """Write a record (atomically) and return its path.

        Raises:
            UserError: full disk, no permission, read-only file system.
        """
        path = self.path(record["run_id"], record["target"], record["method"])
        write_json_atomic(path, record)
        for leftover in path.parent.glob(f".{path.name}.*{TEMPORARY}"):  # of a process that was killed here
            leftover.unlink(missing_ok=True)
        return path

    def files(self, target: str = "*", method: str = "*") -> list[Path]:
        """Record files in a fixed order."""
        return sorted(path for path in self.runs.glob(f"{target}/{method}/*.json") if not path.name.startswith("."))

    def records(self, target: str = "*", method: str = "*") -> Iterator[Record]:
        """All records in a fixed order.

        Raises:
            UserError: at the first corrupt one.
        """
        for path in self.files(target, method):
            yield read_record(path)

    def load(self, target: str = "*", method: str = "*") -> tuple[list[Record], list[UserError]]:
        """All readable records, and one error per unreadable file."""
        found, unreadable = [], []
        for path in self.files(target, method):
            try:
                found.append(read_record(path))
            except UserError as error:
                unreadable.append(error)
        return found, unreadable

    def find(self, prefix: str) -> Record:
        """The one record whose run id starts with ``prefix``.

        Raises:
            UserError: none or several match, or the record is corrupt.
        """
        matches = [path for path in self.files() if path.stem.startswith(prefix)]
        exact = [path for path in matches if path.stem == prefix]
        matches = exact or matches
        if not matches:
            raise UserError(f"no run {prefix!r} in {self.root}", "`sivibench status` lists what is there")
        if len(matches) > 1:
            shown = ", ".join(path.stem for path in matches[:5]) + (", ..." if len(matches) > 5 else "")
            raise UserError(f"{len(matches)} runs start with {prefix!r}: {shown}", "give more characters")
        return read_record(matches[0])

    def writable(self) -> None:
        """Write and remove a small file, so that a problem shows before any work is done.

        Raises:
            UserError: the results folder cannot be written.
        """
        probe = self.runs / f".{uuid.uuid4().hex}{TEMPORARY}"
        try:
            self.runs.mkdir(parents=True, exist_ok=True)
            try:
                with open(probe, "x", encoding="utf-8") as stream:
                    stream.write("probe\n")
                    stream.flush()
                    os.fsync(stream.fileno())
            finally:
                probe.unlink(missing_ok=True)
        except OSError as error:
            problem = explain_os_error(self.root, error)
            if problem is None:
                raise
            raise problem from error
