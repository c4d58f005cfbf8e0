"""Calls of the fused pass over a ReLU net (``relu_net.cpp``)."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from bench.native import Library

_SIZES = [ctypes.c_int, *[ctypes.c_int64] * 5, ctypes.c_double]
LIBRARY = Library(
    "relu_net",
    "the fused pass over a ReLU net",
    Path(__file__).with_name("relu_net.cpp"),
    headers=(),
    functions={
        "sivibench_relu_net_width": [ctypes.c_int],
        "sivibench_relu_net_score": [*_SIZES, *[ctypes.c_void_p] * 7],
        "sivibench_relu_net_second": [*_SIZES, *[ctypes.c_void_p] * 6],
    },
)
GATES = {torch.float32: torch.int32, torch.float64: torch.int64}


def width(dtype: torch.dtype) -> int:
    """Numbers in a vector of this machine."""
    library = LIBRARY.get()
    assert library is not None, "callers ask net_backend() first"
    return library.sivibench_relu_net_width(int(dtype == torch.float64))


def state_like(x: Tensor, rows: int, inputs: int, hidden: int) -> tuple[Tensor, Tensor]:
    """Empty gates and moments for particles x [..., d]: what the first pass leaves to the second."""
    lanes = width(x.dtype)
    gates = torch.empty(*x.shape[:-1], rows, lanes, dtype=GATES[x.dtype], device=x.device)
    return gates, x.new_empty(*x.shape[:-1], inputs, -(-hidden // lanes) * lanes)


def _call(name: str, inputs: Tensor, x: Tensor, hidden: int, gamma: float, *pointers: Tensor) -> None:
    library = LIBRARY.get()
    assert library is not None, "callers ask net_backend() first"
    G = inputs.shape[:-2].numel()
    sizes = (int(x.dtype == torch.float64), G, x[..., 0].numel() // max(1, G), *inputs.shape[-2:], hidden, gamma)
    getattr(library, name)(*sizes, *(t.data_ptr() for t in pointers))


def score(
    x: Tensor, inputs: Tensor, outputs: Tensor, hidden: int, gamma: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Misfit part of the log likelihood, its gradient, gates and moments; shapes as in ``relu_net.fused``."""
    x, inputs, outputs = x.contiguous(), inputs.contiguous(), outputs.contiguous()
    value, gradient = x.new_empty(x.shape[:-1]), torch.empty_like(x)
    state = state_like(x, inputs.shape[-2], inputs.shape[-1], hidden)
    out = (value, gradient, *state)
    _call("sivibench_relu_net_score", inputs, x, hidden, gamma, x, inputs, outputs, *out)
    return out


def second(x: Tensor, v: Tensor, inputs: Tensor, gates: Tensor, moments: Tensor, hidden: int, gamma: float) -> Tensor:
    """Second derivative of the log likelihood times v, [..., d]."""
    x, v, inputs, gates, moments = (t.contiguous() for t in (x, v, inputs, gates, moments))
    result = torch.empty_like(x)
    _call("sivibench_relu_net_second", inputs, x, hidden, gamma, x, v, inputs, gates, moments, result)
    return result
