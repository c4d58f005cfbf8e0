"""The Stein variational direction: attraction by smoothed scores, repulsion by the kernel's gradient."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from methods.native import direction as native
from methods.native.batched import leading, matrices, points_with_seeds, require_one_dtype
from methods.parts import kernels

ConstantBandwidth = Literal["detached", "bisection"]
SteinKernel = Literal["gaussian", "imq"]


def stein_direction(
    x: Tensor, y: Tensor, score: Tensor, *, kernel: SteinKernel = "gaussian", bandwidth: ConstantBandwidth = "detached"
) -> Tensor:
    """phi(x_i) = (1/M) sum_j [k(y_j, x_i) s_p(y_j) + grad_{y_j} k(y_j, x_i)]  (Liu & Wang 2016, 1608.04471, eq. 8).

    The median bandwidth is a constant; its L is log(N + 1) with N = rows of x (``methods.parts.kernels``).

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
    if particle_backend(x) == "fused":
        return _fused(x, y, score, kernel, bandwidth)
    return closed_form(x, y, score, kernel, bandwidth)


def particle_backend(x: Tensor) -> Literal["fused", "torch"]:
    """Which implementation takes points like x, for the run record and while tracing."""
    applies = x.device.type == "cpu" and x.dtype == torch.float32
    return "fused" if applies and native.LIBRARY.get() is not None else "torch"


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
    points, draws, scores = matrices(x, y, score)
    phi = native.fused_direction(points, draws, scores, kernel, bandwidth)
    return phi.reshape(*leading(x, y, score), *x.shape[-2:])


@_fused.register_fake
def _(x, y, score, kernel, bandwidth):
    return torch.empty(*leading(x, y, score), *x.shape[-2:], dtype=x.dtype, device=x.device)


@_fused.register_vmap
def _(info, in_dims, x, y, score, kernel, bandwidth):
    return _fused(*points_with_seeds(info, in_dims[:3], (x, y, score)), kernel, bandwidth), 0
