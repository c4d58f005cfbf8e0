"""Calls of the fused passes over a ReLU network (``relu_mlp.cpp``)."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from bench.native import Library
from methods.native.batched import addresses
from methods.native.relu_layers import NETWORK, POINTER, WEIGHTS, dense, network_arguments

LIBRARY = Library(
    "relu_mlp",
    "the fused pass over a ReLU network",
    Path(__file__).with_name("relu_mlp.cpp"),
    headers=("relu_layers.hpp",),
    functions={
        "sivibench_relu_mlp_forward": [*NETWORK, *[POINTER] * 3],
        "sivibench_relu_mlp_backward": [*WEIGHTS, *[POINTER] * 6],
    },
)
LINE = 16
"""Hidden values have rows of whole cache lines, in floats."""


def hidden_like(x: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    """Empty hidden values, [S, n, width rounded up] for each layer but the last."""
    return [x.new_empty(*x.shape[:-1], -(-w.shape[-2] // LINE) * LINE) for w in weights[:-1]]


def forward(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Outputs [S, n, d'] and hidden values; x [S, n, d], weights [S, out, in], biases [S, out]."""
    x, weights, biases = x.contiguous(), dense(weights), dense(biases)
    hidden, out = hidden_like(x, weights), x.new_empty(*x.shape[:-1], weights[-1].shape[-2])
    _native().sivibench_relu_mlp_forward(
        *network_arguments(x, weights, biases), x.data_ptr(), addresses(hidden), out.data_ptr()
    )
    return out, hidden


def backward(
    g: Tensor, x: Tensor, weights: Sequence[Tensor], hidden: Sequence[Tensor], wants_x: bool, wants_weights: bool
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Gradients in x, weights and biases from that in the outputs, g [S, n, d']; empty where not wanted."""
    g, x, hidden = g.contiguous(), x.contiguous(), [h.contiguous() for h in hidden]
    weights = dense(weights)
    gx = torch.empty_like(x) if wants_x else x.new_empty(0)
    of_weights = [g.new_empty(w.shape) for w in weights] if wants_weights else []
    of_biases = [g.new_empty(w.shape[:-1]) for w in weights] if wants_weights else []
    _native().sivibench_relu_mlp_backward(
        *network_arguments(x, weights), x.data_ptr(), addresses(hidden), g.data_ptr(),
        gx.data_ptr() if wants_x else None, *(addresses(t) if t else None for t in (of_weights, of_biases)),
    )  # fmt: skip
    return gx, of_weights, of_biases


def _native() -> ctypes.CDLL:
    native = LIBRARY.get()
    assert native is not None, "callers ask mlp_backend() first"
    return native
