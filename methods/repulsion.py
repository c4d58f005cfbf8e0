"""The Stein variational direction: attraction by smoothed scores, repulsion by the kernel's gradient."""

from __future__ import annotations

import ctypes
import math
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from bench.native import Library
from methods import kernels
from methods.batched import leading, matrices, require_one_dtype, with_seeds

ConstantBandwidth = Literal["detached", "bisection"]
SteinKernel = Literal["gaussian", "imq"]

LIBRARY = Library(
    "stein_direction",
    "the fused Stein variational direction",
    Path(__file__).with_name("direction_pairs.cpp"),
    headers=("stein_select.hpp", "stein_profile.hpp"),
    functions={"sivibench_stein_direction": [*[ctypes.c_int64] * 4, *[ctypes.c_int] * 2, *[ctypes.c_void_p] * 4]},
)


def stein_direction(
    x: Tensor, y: Tensor, score: Tensor, *, kernel: SteinKernel = "gaussian", bandwidth: ConstantBandwidth = "detached"
) -> Tensor:
    """phi(x_i) = (1/M) sum_j [k(y_j, x_i) s_p(y_j) + grad_{y_j} k(y_j, x_i)]  (Liu & Wang 2016, 1608.04471, eq. 8).

    The median bandwidth is a constant; its L is log(N + 1) with N = rows of x (``methods.kernels``).

    Args:
        x: points that move, [..., N, d].
        y: draws from q, [..., M, d]; x itself for SVGD.
        score: s_p(y), [..., M, d].

    Returns:
        The direction of steepest descent of KL(q || p) in the kernel's space, [..., N, d], without gradients.

    Raises:
        ValueError: arguments of different precision, or shapes that do not match.
    """
    require_one_dtype(x=x, y=y, score=score)
    if y.shape[-2:] != score.shape[-2:] or x.shape[-1] != y.shape[-1]:
        raise ValueError(f"shapes x {x.shape}, y {y.shape}, score {score.shape} do not match")
    x, y, score = x.detach(), y.detach(), score.detach()
    if direction_backend(x) == "fused":
        return _fused(x, y, score, kernel, bandwidth)
    return closed_form(x, y, score, kernel, bandwidth)


def direction_backend(x: Tensor) -> Literal["fused", "torch"]:
    """Which implementation takes points like x, for the run record and while tracing."""
    applies = x.device.type == "cpu" and x.dtype == torch.float32
    return "fused" if applies and LIBRARY.get() is not None else "torch"


def closed_form(x: Tensor, y: Tensor, score: Tensor, kernel: str, bandwidth: str) -> Tensor:
    """The direction in plain torch."""
    D = kernels.statistic(kernel, x, y)
    scale = math.log(x.shape[-2] + 1) / kernels.median(D, bandwidth)
    k, dk = kernels.profile(kernel, D * scale)
    # k depends on y - x only: the gradients in y_j, summed over j, are minus the gradient in x_i
    repulsion = -kernels.statistic_vjp(kernel, dk * scale, x, y)[0]
    return (k @ score + repulsion) / y.shape[-2]


@torch.library.custom_op("sivibench::stein_direction", mutates_args=())
def _fused(x: Tensor, y: Tensor, score: Tensor, kernel: str, bandwidth: str) -> Tensor:
    """The direction by the fused pass: one opaque node of a traced program."""
    native = LIBRARY.get()
    assert native is not None, "callers ask direction_backend() first"
    x_, y_, score_ = matrices(x, y, score)
    phi = torch.empty_like(x_)
    sizes = (*x_.shape[:2], *y_.shape[1:], kernels.KERNELS.index(kernel), kernels.BANDWIDTHS.index(bandwidth))
    if native.sivibench_stein_direction(*sizes, *(t.data_ptr() for t in (x_, y_, score_, phi))):
        raise ValueError(f"no Stein direction for kernel {kernel!r}")
    return phi.reshape(*leading(x, y, score), *x.shape[-2:])


@_fused.register_fake
def _(x, y, score, kernel, bandwidth):
    return torch.empty(*leading(x, y, score), *x.shape[-2:], dtype=x.dtype, device=x.device)


@_fused.register_vmap
def _(info, in_dims, x, y, score, kernel, bandwidth):
    return _fused(*with_seeds(info, in_dims[:3], (x, y, score)), kernel, bandwidth), 0
