"""Checkpoints of a group of seeds: one file, written to a temporary name and renamed.

The group is saved and continued whole, so that a continued fit does the same arithmetic as an undisturbed one.
"""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bench.errors import UserError

FORMAT = 1


class Checkpoint:
    """The checkpoint file of one configuration and one group of seeds.

    Args:
        folder: where checkpoints live.
        config_id: the configuration's identity.
        seeds: the group.
    """

    def __init__(self, folder: Path, config_id: str, seeds: Sequence[int]) -> None:
        self.config_id, self.seeds = config_id, list(seeds)
        group = hashlib.sha256(repr(self.seeds).encode()).hexdigest()[:8]
        self.path = folder / f"{config_id}-{group}.pt"

    def save(self, payload: dict[str, Any]) -> None:
        """Write atomically; a full disk leaves the previous checkpoint in place.

        Raises:
            UserError: the file cannot be written.
        """
        temporary = self.path.with_suffix(f".tmp{os.getpid()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                torch.save(payload | {"format": FORMAT, "config_id": self.config_id, "seeds": self.seeds}, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
        except (OSError, RuntimeError) as error:
            # torch reports a full disk as a RuntimeError of its zip writer
            temporary.unlink(missing_ok=True)
            raise UserError(
                f"cannot write the checkpoint {self.path}: {error}",
                "free some space or choose another folder with --results; finished runs are kept",
            ) from error

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """The saved payload, or None if there is none.

        Raises:
            UserError: the file is unreadable or belongs to another format.
        """
        if not self.path.exists():
            return None
        try:
            payload = torch.load(self.path, map_location=device, weights_only=True)
            if payload["format"] != FORMAT or payload["config_id"] != self.config_id:
                raise KeyError("format")
        except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
            raise UserError(
                f"checkpoint {self.path} is corrupt or from another version ({type(error).__name__})",
                f"delete it to start that run again: rm {self.path}",
            ) from error
        return payload

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)


def covering(folder: Path, config_id: str, seeds: Sequence[int]) -> Checkpoint:
    """The checkpoint of an earlier group of this configuration that shares a seed with ``seeds``, else a new one.

    After a kill between two seeds' records only some seeds are left to do, yet the saved group must be continued
    as it was.
    """
    exact = Checkpoint(folder, config_id, seeds)
    if exact.path.exists():
        return exact
    for path in sorted(folder.glob(f"{config_id}-*.pt")):
        saved = _saved_seeds(path)
        if set(saved) & set(seeds):
            return Checkpoint(folder, config_id, saved)
    return exact


def _saved_seeds(path: Path) -> list[int]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)["seeds"]
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise UserError(
            f"checkpoint {path} is corrupt ({type(error).__name__})", f"delete it to start that run again: rm {path}"
        ) from error
