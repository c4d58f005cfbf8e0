"""How the layers of a ReLU network are given to native code (``relu_layers.hpp``)."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from methods.native.batched import addresses

INT64, POINTER = ctypes.c_int64, ctypes.c_void_p
WEIGHTS = [*[INT64] * 3, *[POINTER] * 3]
"""Types of ``network_arguments`` without biases."""
NETWORK = [*WEIGHTS, *[POINTER] * 2]
"""With them."""


def dense(tensors: Sequence[Tensor]) -> list[Tensor]:
    """One seed's values without gaps; those of different seeds may lie apart, as in a flat vector of parameters."""
    return [t if t.is_contiguous() or t[0].is_contiguous() else t.contiguous() for t in tensors]


def network_arguments(x: Tensor, weights: Sequence[Tensor], *biases: Sequence[Tensor]) -> list[Any]:
    """Seeds, rows, layers, widths, and where the parameters lie; they have to live until the call is over.

    Args:
        x: inputs [S, n, d].
        weights: dense, [S, out, in] each.
        biases: dense, [S, out] each; or none.
    """
    widths = [x.shape[-1], *(w.shape[-2] for w in weights)]
    given = [x.shape[0], x.shape[1], len(weights), (INT64 * len(widths))(*widths)]
    for tensors in (weights, *biases):
        given += [addresses(tensors), (INT64 * len(tensors))(*(t.stride(0) for t in tensors))]
    return given
