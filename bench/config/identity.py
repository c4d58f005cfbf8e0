"""What makes two runs the same run: a hash of what is computed, and of nothing else.

Method, target, training and evaluation enter, with their versions.  How it is computed does not, although it changes
rounding and, on a GPU, the noise: device, threads, compilation, seeds fitted together, libraries, and code or plugins
that change without a new version.  That is in the record, under ``env`` and ``cost``.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

from bench.errors import UserError

ENGINE_VERSION = 1
"""Raised whenever the engine changes what a configuration computes (noise streams, order of players, ...)."""


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces; floats keep their point, so types must already be those of the schema.

    Raises:
        UserError: a number is NaN or infinite, which JSON cannot hold.
    """
    _reject_non_finite(value, "")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def config_id(identity: dict[str, Any]) -> str:
    """First ten hex digits of the SHA-256 of the canonical JSON of ``Config.identity``."""
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:10]


def _reject_non_finite(value: Any, key: str) -> None:
    if isinstance(value, dict):
        for name, item in value.items():
            _reject_non_finite(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for item in value:
            _reject_non_finite(item, key)
    elif isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{key}={value} is not a finite number", "give a finite number, or null where it is allowed")
