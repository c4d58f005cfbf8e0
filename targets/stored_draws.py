"""Reference draws on disk: ``<target>.npz`` (float32 draws only) beside ``<target>.json`` (where they came from)."""

from __future__ import annotations

import hashlib
import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.errors import UserError
from targets.base import Unsupported

FOLDER = Path(__file__).parent / "reference"
SCHEMA = 1


def save_reference(name: str, draws: Tensor, info: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Write both files (each through a temporary file) and return ``info`` with rows and hash filled in.

    Args:
        draws: [m, d]; stored as float32.
        info: provenance, see ``bench.reference.regenerate``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{name}.npz"
    np.savez(temporary, draws=draws.to(torch.float32).numpy())
    digest = hashlib.sha256(temporary.read_bytes()).hexdigest()
    os.replace(temporary, folder / f"{name}.npz")

    info = {"schema": SCHEMA, "target": name, **info, "rows": len(draws), "file": f"{name}.npz", "sha256": digest}
    lines = ",\n ".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in info.items())
    temporary = folder / f".{name}.json"
    temporary.write_text(f"{{{lines}}}\n")
    os.replace(temporary, folder / f"{name}.json")
    _read.cache_clear()
    return info


def load_reference(name: str, version: int, parameters: dict[str, Any], folder: Path = FOLDER) -> Tensor:
    """The stored draws of target ``name``, [m, d] (CPU, float32), read once per process.

    Raises:
        UserError: a file is missing, does not match its recorded hash, or was made for another target version.
        Unsupported: the stored draws belong to other hyper-parameters of the target.
    """
    draws, info = _read(name, folder)
    if info["target_version"] != version:
        raise UserError(
            f"the reference draws of {name} were made for version {info['target_version']}, this is {version}",
            f"make them again: sivibench reference {name}",
        )
    if info["target_parameters"] != parameters:
        raise Unsupported(f"{name}: reference draws exist for {info['target_parameters']} only, not for {parameters}")
    return draws


def load_info(name: str, folder: Path = FOLDER) -> dict[str, Any]:
    """Provenance of the stored draws."""
    path = folder / f"{name}.json"
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError as error:
        raise UserError(
            f"no reference draws of {name}: {path} is missing", f"make them: sivibench reference {name}"
        ) from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not JSON ({error})", f"make it again: sivibench reference {name}") from error


@lru_cache
def _read(name: str, folder: Path) -> tuple[Tensor, dict[str, Any]]:
    info = load_info(name, folder)
    path = folder / info["file"]
    if not path.is_file():
        raise UserError(f"the reference draws {path} are missing", f"make them: sivibench reference {name}")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != info["sha256"]:
        raise UserError(
            f"{path} has sha256 {found}, its provenance says {info['sha256']}",
            f"restore both files from git, or make them again: sivibench reference {name}",
        )
    with np.load(path, allow_pickle=False) as file:
        return torch.from_numpy(file["draws"]), info
