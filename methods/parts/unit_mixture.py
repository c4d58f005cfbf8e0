"""Score of an equal mixture of unit Gaussians: the inner loop of PVI and BSIVI, n M pairs of point and component."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from methods.native import unit_mixture as native
from methods.native.batched import leading, matrices, points_with_seeds, require_one_dtype
from methods.parts import kernels


def unit_mixture_score(x: Tensor, centres: Tensor) -> Tensor:
    """grad_x log (1/M) sum_m N(x; c_m, I) = sum_m w_m(x) c_m - x, as a constant.

    Args:
        x: points, [..., n, d].
        centres: c_m, [..., M, d].

    Returns:
        [..., n, d], without gradients.

    Raises:
        ValueError: arguments of different precision or dimension.
    """
    require_one_dtype(x=x, centres=centres)
    if x.shape[-1] != centres.shape[-1]:
        raise ValueError(f"shapes x {x.shape} and centres {centres.shape} do not match")
    x, centres = x.detach(), centres.detach()
    if mixture_backend(x) == "fused":
        return _fused(x, centres)
    weights = torch.softmax(-0.5 * kernels.statistic("gaussian", x, centres), dim=-1)
    return weights @ centres - x


def mixture_backend(x: Tensor) -> Literal["fused", "torch"]:
    """Which implementation takes points like x [..., d], for the run record and while tracing."""
    applies = x.device.type == "cpu" and x.dtype == torch.float32
    return "fused" if applies and native.LIBRARY.get() is not None else "torch"


@torch.library.custom_op("sivibench::unit_mixture", mutates_args=())
def _fused(x: Tensor, centres: Tensor) -> Tensor:
    """The fused pass: one opaque node of a traced program."""
    points, components = matrices(x, centres)
    out = native.fused_score(points, components)
    return out.reshape(*leading(x, centres), *x.shape[-2:])


@_fused.register_fake
def _(x, centres):
    return torch.empty(*leading(x, centres), *x.shape[-2:], dtype=x.dtype, device=x.device)


@_fused.register_vmap
def _(info, in_dims, *tensors):
    return _fused(*points_with_seeds(info, in_dims, tensors)), 0
