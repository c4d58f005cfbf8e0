"""What was submitted: one JSON file per submission, ``<results>/artifacts/sweeps/<sweep>/<time>/manifest.json``."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.files import write_json_atomic
from bench.store import Store


@dataclass
class Manifest:
    """One submission.

    Attributes:
        sweep: its name.
        lines, overrides, exclude: the sweep's lines and what was given on the command line, to plan it again.
        title, results, replace: the same keys of the sweep; a manifest written before they were kept has the defaults.
        created: UTC.
        git, dirty, source: the code at submission.
        site: name of the profile.
        launcher: its options.
        jobs: SLURM's job id -> batched runs (method, target, config_id, seeds).
        folder: where the journals and logs are.
    """

    sweep: str
    lines: list[str]
    overrides: list[str]
    exclude: dict[str, str]
    created: str
    git: str | None
    dirty: bool | None
    source: str
    site: str | None
    launcher: dict[str, Any]
    folder: str
    jobs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    title: str = ""
    results: str | None = None
    replace: bool = True

    def save(self) -> None:
        """Write it (atomically)."""
        write_json_atomic(Path(self.folder) / "manifest.json", asdict(self))

    def log(self, job: str) -> Path:
        """The log of a job's first process, over all restarts."""
        return Path(self.folder) / "log" / f"{job}_0_log.out"

    def runs(self, job: str) -> Iterator[str]:
        """Run ids of a job."""
        for group in self.jobs[job]:
            yield from (f"{group['config_id']}-s{seed}" for seed in group["seeds"])


def new_folder(store: Store, sweep: str) -> Path:
    """A folder for a submission that nobody has yet; made.

    Raises:
        UserError: the results folder cannot be written.
    """
    store.writable()
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    number = 0
    while True:
        folder = store.sweeps / sweep / (f"{stamp}-{number}" if number else stamp)
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return folder.resolve()


def manifests(store: Store, sweep: str = "*") -> list[Manifest]:
    """Submissions of a sweep, or of all, the oldest first.

    Raises:
        UserError: a manifest is damaged.
    """
    found = []
    for path in sorted(store.sweeps.glob(f"{sweep}/*/manifest.json")):
        try:
            found.append(Manifest(**json.loads(path.read_text(encoding="utf-8"))))
        except (ValueError, TypeError) as error:
            raise UserError(f"damaged manifest {path}: {error}", "delete the file; the runs are not touched") from error
    return sorted(found, key=lambda manifest: manifest.folder.rpartition("/")[2])
