"""Calls of the fused Stein variational direction (``direction_pairs.cpp``)."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from bench.native import Library
from methods.native.profile import BANDWIDTHS, KERNELS

LIBRARY = Library(
    "stein_direction",
    "the fused Stein variational direction",
    Path(__file__).with_name("direction_pairs.cpp"),
    headers=("stein_select.hpp", "stein_profile.hpp"),
    functions={"sivibench_stein_direction": [*[ctypes.c_int64] * 4, *[ctypes.c_int] * 2, *[ctypes.c_void_p] * 4]},
)


def fused_direction(x: Tensor, y: Tensor, score: Tensor, kernel: str, bandwidth: str) -> Tensor:
    """The direction [S, N, d]; contiguous CPU float32 arguments [S, N, d] and [S, M, d]."""
    native = LIBRARY.get()
    assert native is not None, "callers ask particle_backend() first"
    phi = torch.empty_like(x)
    sizes = (*x.shape[:2], *y.shape[1:], KERNELS.index(kernel), BANDWIDTHS.index(bandwidth))
    if native.sivibench_stein_direction(*sizes, *(t.data_ptr() for t in (x, y, score, phi))):
        raise ValueError(f"no Stein direction for kernel {kernel!r}")
    return phi
