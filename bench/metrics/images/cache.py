"""Tensors that take minutes to compute and depend on nothing but a key, kept in the cache folder."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from bench.errors import UserError
from bench.files import write_atomic
from bench.places import cache_folder

log = logging.getLogger("sivibench")

FOLDER = "images"


def cached(key: Mapping[str, Any], make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What ``make`` returned for this key, here or in an earlier process (CPU tensors).

    Args:
        key: JSON values that determine the tensors.
        make: computes them.

    Raises:
        UserError: the file is damaged.
    """
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:20]
    path = cache_folder() / FOLDER / f"{digest}.safetensors"
    if path.is_file():
        try:
            return load_file(path)
        except SafetensorError as error:
            raise UserError(f"{path} is damaged: {error}", "delete it; it will be made again") from error
    made = {name: tensor.cpu().contiguous() for name, tensor in make().items()}
    try:
        write_atomic(path, save(made))
    except UserError as problem:  # a full disk must not cost the value
        log.warning("not kept for the next time: %s", problem)
    return made
