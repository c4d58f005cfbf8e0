"""Calls of the fused score of a mixture of unit Gaussians (``unit_mixture.cpp``)."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from bench.native import Library

LIBRARY = Library(
    "unit_mixture",
    "the fused score of a mixture",
    Path(__file__).with_name("unit_mixture.cpp"),
    headers=(),
    functions={"sivibench_unit_mixture": [*[ctypes.c_int64] * 4, *[ctypes.c_void_p] * 3]},
)


def fused_score(x: Tensor, centres: Tensor) -> Tensor:
    """The score [S, n, d]; contiguous CPU float32 arguments [S, n, d] and [S, M, d]."""
    native = LIBRARY.get()
    assert native is not None, "callers ask mixture_backend() first"
    out = torch.empty_like(x)
    native.sivibench_unit_mixture(*x.shape[:2], *centres.shape[1:], *(t.data_ptr() for t in (x, centres, out)))
    return out
