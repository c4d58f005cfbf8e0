"""The final parameters of a run, kept so that a metric added later needs no second fit.

They lie under ``<results>/artifacts/parameters`` (not in git); the record holds their SHA-256.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from bench.digest import digest
from bench.errors import UserError
from bench.files import write_atomic


def save_parameters(folder: Path, run_id: str, values: Mapping[str, Tensor]) -> Path:
    """Write one seed's values (``bench.fit.program.member_values``) as safetensors.

    Raises:
        UserError: full disk, no permission.
    """
    from safetensors.torch import save

    path = folder / f"{run_id}.safetensors"
    write_atomic(path, save({key: value.detach().cpu().contiguous() for key, value in values.items()}))
    return path


def load_parameters(folder: Path, run_id: str, sha256: str) -> dict[str, Tensor] | None:
    """One seed's values, None where they were not kept.

    Raises:
        UserError: the file is damaged or belongs to another fit of this run than its record.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = folder / f"{run_id}.safetensors"
    try:
        values: dict[str, Tensor] = load(path.read_bytes())
    except FileNotFoundError:
        return {} if sha256 == digest({}) else None  # of a sampler without parameters there is nothing to keep
    except SafetensorError as error:
        raise UserError(f"{path} is damaged: {error}", "delete it; a new fit writes it again") from error
    if digest(values) != sha256:
        raise UserError(f"{path} holds other parameters than the record's", "delete it; a new fit writes it again")
    return values
