"""Calls of the fused estimate of AISIVI (``aisivi.cpp``)."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.native import Library
from methods.native.batched import addresses

_INT64, _POINTER = ctypes.c_int64, ctypes.c_void_p

LIBRARY = Library(
    "aisivi",
    "the fused estimate of AISIVI",
    Path(__file__).with_name("aisivi.cpp"),
    headers=("stein_select.hpp", "stein_profile.hpp"),
    functions={"sivibench_aisivi": [*[_INT64] * 6, _POINTER, _INT64, *[_POINTER] * 7]},
)


def estimate(
    couplings: Sequence[Sequence[Tensor]], linear: Sequence[nn.Linear], sigma: Tensor, x: Tensor, eps: Tensor
) -> Tensor:
    """As ``AISIVI.estimate`` for a ReLU network of these linear maps; CPU, float32.

    Args:
        couplings: the seven tensors of each coupling of the flow (``ConditionalCoupling.tensors``).
        linear: the maps of the network.
        sigma: [d].
        x: [n, d].
        eps: [inner, n, k].
    """
    native = LIBRARY.get()
    assert native is not None, "callers ask AISIVI.backend first"
    parameters = [t.contiguous() for coupling in couplings for t in coupling]
    weights, biases = ([t.contiguous() for t in ts] for ts in zip(*((m.weight, m.bias) for m in linear), strict=True))
    widths = [weights[0].shape[1], *(w.shape[0] for w in weights)]
    x, eps, sigma, out = x.contiguous(), eps.contiguous(), sigma.contiguous(), torch.empty_like(x)
    inner, n, k = eps.shape
    hidden = len(couplings[0][2])  # of its bias
    native.sivibench_aisivi(
        n, inner, k, x.shape[1], len(couplings), hidden, addresses(parameters), len(weights),
        (_INT64 * len(widths))(*widths), addresses(weights), addresses(biases),
        *(t.data_ptr() for t in (sigma, x, eps, out)),
    )  # fmt: skip
    return out
