"""Calls of the fused HMC chains on a reverse conditional (``reverse_chains.cpp``)."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from bench.native import Library
from methods.native.relu_layers import INT64, NETWORK, POINTER, dense, network_arguments

LIBRARY = Library(
    "reverse_chains",
    "the fused HMC chains",
    Path(__file__).with_name("reverse_chains.cpp"),
    headers=("relu_layers.hpp",),
    functions={
        "sivibench_reverse_chains": [*NETWORK, *[POINTER] * 5, *[INT64] * 3, *[ctypes.c_float] * 2, *[POINTER] * 2]
    },
)


def run(
    state: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    burn_in: int,
    leapfrog: int,
    target: float,
    rate: float,
) -> tuple[Tensor, Tensor]:
    """The average of mu over the transitions after the burn-in, [S, n, d], and the adapted step sizes [S].

    Args:
        state: sigma [S, d], x [S, n, d], z [S, n, k], momenta [S, T, n, k], uniforms [S, T, n], step sizes [S].
        weights, biases: of mu, [S, out, in] and [S, out] each.
        burn_in: how many of the T transitions adapt the step size and are not averaged.
        leapfrog: steps per transition.
        target, rate: of the adaptation, see ``hmc.adapted``.
    """
    native = LIBRARY.get()
    assert native is not None, "callers ask chains_backend() first"
    weights, biases = dense(weights), dense(biases)
    *given, step = (t.contiguous() for t in state)
    _, x, z, momenta, _ = given
    step, mean = step.clone(), torch.empty_like(x)
    native.sivibench_reverse_chains(
        *network_arguments(z, weights, biases), *(t.data_ptr() for t in given),
        burn_in, momenta.shape[1] - burn_in, leapfrog, target, rate, step.data_ptr(), mean.data_ptr(),
    )  # fmt: skip
    return mean, step
