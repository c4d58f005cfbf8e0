"""What has been mirrored: one small file per run in ``<results>/artifacts/mirror``, so that nothing goes up twice.

``artifacts`` is the folder of that name in the results folder.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.files import write_json_atomic
from bench.mirror.access import server


@dataclass(frozen=True)
class Entry:
    """The last copy of a run.

    Attributes:
        run_id: the run.
        record: digest of the record that was copied.
        mode: ``online`` or ``offline``.
        place: server, entity and project it went or is to go to.
        next_step: first step that is not in the history yet.
        folder: of an offline copy, its name below ``<results>/artifacts/wandb``.
    """

    run_id: str
    record: str
    mode: str
    place: str
    next_step: int
    folder: str | None = None


def place(project: str, entity: str | None) -> str:
    """Where runs go."""
    return f"{server()}/{entity or '-'}/{project}"


def read(artifacts: Path, run_id: str) -> Entry | None:
    """The entry of a run; None without a (readable) one, and then it is copied again, which does no harm."""
    try:
        return Entry(**json.loads(_path(artifacts, run_id).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def write(artifacts: Path, entry: Entry) -> None:
    """Note a finished copy.

    Raises:
        UserError: full disk, no permission.
    """
    write_json_atomic(_path(artifacts, entry.run_id), asdict(entry))


def delivered(artifacts: Path, entry: Entry | None, *, record: str, mode: str, place: str) -> bool:
    """Whether this version of a record is there already; offline copies count online once they are uploaded."""
    if entry is None or (entry.record, entry.place) != (record, place):
        return False
    return (
        entry.mode == "online" or (mode == "offline" and _there(artifacts, entry)) or is_synced(artifacts, entry.folder)
    )


def offline_folders(artifacts: Path) -> list[Path]:
    """Folders of offline runs, the oldest first."""
    return sorted(path for path in (artifacts / "wandb").glob("offline-run-*") if path.is_dir())


def is_synced(artifacts: Path, folder: str | None) -> bool:
    """Whether an offline folder has been uploaded (the client leaves a mark)."""
    return folder is not None and any((artifacts / "wandb" / folder).glob("*.wandb.synced"))


def mark_synced(artifacts: Path, folder: str | None) -> None:
    """Leave the client's mark: the run has gone up another way, and uploading the folder would repeat its history."""
    if folder is not None:
        for path in (artifacts / "wandb" / folder).glob("*.wandb"):
            path.with_name(f"{path.name}.synced").touch()


def _there(artifacts: Path, entry: Entry) -> bool:
    return entry.folder is not None and (artifacts / "wandb" / entry.folder).is_dir()


def _path(artifacts: Path, run_id: str) -> Path:
    return artifacts / "mirror" / f"{run_id}.json"
