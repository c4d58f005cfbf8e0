"""Calls of the fused pair pass of the kernel Stein discrepancy (``stein_pairs.cpp``)."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from bench.native import Library
from methods.native.profile import BANDWIDTHS, KERNELS

LIBRARY = Library(
    "stein",
    "the fused Stein pass",
    Path(__file__).with_name("stein_pairs.cpp"),
    headers=("stein_select.hpp", "stein_profile.hpp", "stein_wide.hpp"),
    functions={"sivibench_stein_pairs": [*[ctypes.c_int64] * 4, *[ctypes.c_int] * 3, *[ctypes.c_void_p] * 9]},
)


def fused_pairs(
    x: Tensor, y: Tensor, f: Tensor, g: Tensor, kernel: str, bandwidth: str, ustat: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Loss [S] and gradients in x, y, f, g; CPU float32 arguments [S, N, d] and [S, M, d]."""
    native = LIBRARY.get()
    assert native is not None, "callers ask stein_backend() first"
    x, y, f, g = (t.contiguous() for t in (x, y, f, g))
    S, N, d = x.shape
    out = x.new_empty(S), torch.empty_like(x), torch.empty_like(y), torch.empty_like(f), torch.empty_like(g)
    sizes = (S, N, y.shape[1], d, KERNELS.index(kernel), BANDWIDTHS.index(bandwidth), int(ustat))
    if native.sivibench_stein_pairs(*sizes, *(t.data_ptr() for t in (x, y, f, g, *out))):
        raise ValueError(f"unknown kernel {kernel!r}")
    return out
