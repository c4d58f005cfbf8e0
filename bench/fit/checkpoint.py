"""Checkpoints of a group of seeds: one file, written to a temporary name and renamed.

The group is saved and continued whole, so that a continued fit does the same arithmetic as an undisturbed one.

A file is one line of JSON (format, configuration, seeds, SHA-256 of the rest, and what is to be known without reading
it) and what ``torch.save`` makes of the state.  The digest is there because torch does not verify what it loads: a
flipped bit would silently become a result.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from bench.errors import UserError
from bench.files import TEMPORARY, write_atomic

FORMAT = 3


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

    def save(self, payload: dict[str, Any], **about: Any) -> None:
        """Write atomically; a full disk leaves the previous checkpoint in place.

        Args:
            payload: what ``load`` gives back.
            about: what ``about`` gives back.

        Raises:
            UserError: the file cannot be written.
        """
        buffer = BytesIO()
        torch.save(payload, buffer)
        body = buffer.getbuffer()
        about |= {"format": FORMAT, "config_id": self.config_id, "seeds": self.seeds}
        header = json.dumps(about | {"sha256": hashlib.sha256(body).hexdigest()})
        write_atomic(self.path, header.encode() + b"\n", body)

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """The saved payload, or None if there is none.

        Raises:
            UserError: the file is damaged or belongs to another format or configuration.
        """
        found = _read(self.path)
        if found is None:
            return None
        header, body = found
        if header["config_id"] != self.config_id or hashlib.sha256(body).hexdigest() != header["sha256"]:
            raise unfit(self.path)
        payload: dict[str, Any] = torch.load(BytesIO(body), map_location=device, weights_only=True)
        return payload

    def about(self) -> dict[str, Any]:
        """What the file says of itself, without reading what it saved; empty if there is none.

        Raises:
            UserError: the file is damaged.
        """
        found = _read(self.path, whole=False)
        return {} if found is None else found[0]

    def discard(self) -> None:
        """Remove the file and what kills while writing it have left; only while nobody else can be writing it."""
        for leftover in self.path.parent.glob(f".{self.path.name}.*{TEMPORARY}"):
            leftover.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)


def saved_groups(folder: Path, config_id: str) -> Iterator[Checkpoint]:
    """The checkpoints of a configuration, in a fixed order.

    Raises:
        UserError: at the first damaged one.
    """
    for path in sorted(folder.glob(f"{config_id}-*.pt")):
        found = _read(path, whole=False)
        if found is not None:
            yield Checkpoint(folder, config_id, found[0]["seeds"])


def covering(folder: Path, config_id: str, seeds: Sequence[int]) -> Checkpoint:
    """The checkpoint of an earlier group of this configuration that shares a seed with ``seeds``, else a new one.

    After a kill between two seeds' records only some seeds are left to do, yet the saved group must be continued
    as it was.
    """
    exact = Checkpoint(folder, config_id, seeds)
    if exact.path.exists():
        return exact
    for checkpoint in saved_groups(folder, config_id):
        if set(checkpoint.seeds) & set(seeds):
            return checkpoint
    return exact


def split_by_group(folder: Path, config_id: str, seeds: Sequence[int]) -> list[list[int]]:
    """``seeds`` in parts that each lie in one group: those of saved groups, and all others together.

    Several groups arise when more seeds are asked for after a kill, or when two processes shared the seeds.
    """
    parts, left = [], list(seeds)
    while left:
        group = covering(folder, config_id, left).seeds
        parts.append([seed for seed in left if seed in group])
        left = [seed for seed in left if seed not in group]
    return parts


def _read(path: Path, whole: bool = True) -> tuple[dict[str, Any], bytes] | None:
    """Header and body, None without a file (another process may remove it at any time).

    Args:
        path: the file.
        whole: read the body, which may be gigabytes; else it is empty.
    """
    try:
        with open(path, "rb") as file:
            header = json.loads(file.readline())
            if header["format"] != FORMAT or not {"config_id", "seeds", "sha256"} <= header.keys():
                raise ValueError("format")
            body = file.read() if whole else b""
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(
            f"cannot read the checkpoint {path}: {error.strerror}", "look at that folder and its permissions"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise unfit(path) from error
    return header, body


def unfit(path: Path) -> UserError:
    """The file cannot be continued from."""
    return UserError(
        f"checkpoint {path} is corrupt or from another version", f"delete it to start that run again: rm {path}"
    )
