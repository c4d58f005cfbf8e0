"""Digest of a set of tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from torch import Tensor


def digest(values: Mapping[str, Tensor]) -> str:
    """SHA-256 over named tensors (one seed's flat parameters, averages and buffers): equal ones are bit-identical."""
    found = hashlib.sha256()
    for key, value in sorted(values.items()):
        found.update(key.encode())
        found.update(value.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
