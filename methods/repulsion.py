"""The Stein variational direction: attraction by smoothed scores, repulsion by the kernel's gradient."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor

from methods import kernels

ConstantBandwidth = Literal["detached", "bisection"]
SteinKernel = Literal["gaussian", "imq"]


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
        The direction of steepest descent of KL(q || p) in the kernel's space, [..., N, d].
    """
    D = kernels.statistic(kernel, x, y)
    scale = math.log(x.shape[-2] + 1) / kernels.median(D, bandwidth)
    k, dk = kernels.profile(kernel, D * scale)
    # k depends on y - x only: the gradients in y_j, summed over j, are minus the gradient in x_i
    repulsion = -kernels.statistic_vjp(kernel, dk * scale, x, y)[0]
    return (k @ score + repulsion) / y.shape[-2]
