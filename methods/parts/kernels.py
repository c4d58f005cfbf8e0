"""Positive-definite kernels k(x, y) with the median bandwidth, and their derivatives in closed form.

Every kernel is a profile of one pair statistic D, scaled by its median m over all pairs (Cheng et al., ICML 2024,
arXiv:2405.18997, as in its official code):

    s = D L / m,   L = log(N + 1),   m = lower median of all N M values of D

    gaussian   D = |x - y|_2^2                    k = exp(-s)          (h^2 = m / (2 L), k = exp(-D / (2 h^2)))
    imq        D = |x - y|_2^2                    k = (1 + s)^(-1/2)
    laplace    D = |x - y|_1                      k = exp(-s)
    riesz      D = -|x - y|_1 + |x|_1 + |y|_1     k = s

All functions take points x [..., N, d] and y [..., M, d], have static shapes and never read a value on the host.
"""

from __future__ import annotations

import math
from typing import Literal, cast, get_args

import torch
from torch import Tensor

from bench.errors import UserError

Kernel = Literal["gaussian", "imq", "laplace", "riesz"]
Bandwidth = Literal["exact", "detached", "bisection"]
"""How m is found.  ``exact``: the lower median, and gradients flow to the selected pair (official Gaussian kernel);
``detached``: the lower median as a constant (official imq, laplace and riesz kernels); ``bisection``: a constant
within ``BISECTION_ERROR`` of the lower median, found by counting (no sort: for accelerators)."""

KERNELS: tuple[str, ...] = get_args(Kernel)
BANDWIDTHS: tuple[str, ...] = get_args(Bandwidth)

BISECTION_STEPS = 20
"""Leading bits of the float32 median that the bisection resolves: sign, exponent, 11 of the 23 bits of mantissa."""

BISECTION_ERROR = 2.0**-12
"""Largest relative error of the bisected median (2.44e-4), for medians above 1e-38 / 2^-11."""

MEDIAN_FLOOR = 1e-20
"""Smallest m: with identical points the median is 0 and the official code returns NaN; here k is then 1 for
coinciding pairs and the limit of large s for all others, and no gradient flows through m."""


def require_usable(kernel: str, dim: int) -> None:
    """Refuse a kernel without a median bandwidth in this dimension.

    Raises:
        UserError: Riesz in one dimension, where |x| + |y| - |x - y| is 0 for all pairs of opposite sign.
    """
    if kernel == "riesz" and dim == 1:
        raise UserError(
            "method.kernel=riesz in one dimension: the median over pairs, and so the bandwidth, is often 0",
            "give another kernel",
        )


def squares(v: Tensor) -> Tensor:
    """|v|^2 over the last dimension; coordinate by coordinate where there are few: a sum over 2 or 3 is slow."""
    if not 1 <= v.shape[-1] <= 4:
        return v.square().sum(-1)
    total = v[..., 0].square()
    for i in range(1, v.shape[-1]):
        total = total + v[..., i].square()
    return total


def statistic(kernel: str, x: Tensor, y: Tensor) -> Tensor:
    """D(x_i, y_j), [..., N, M]; non-negative."""
    if kernel in ("gaussian", "imq"):
        return _squared_distance(x, y)
    distance = (x.unsqueeze(-2) - y.unsqueeze(-3)).abs().sum(-1)
    if kernel == "laplace":
        return distance
    norms = x.abs().sum(-1).unsqueeze(-1) + y.abs().sum(-1).unsqueeze(-2)
    return (norms - distance).clamp(min=0)  # >= 0 by the triangle inequality; rounding may say otherwise


def _squared_distance(x: Tensor, y: Tensor) -> Tensor:
    if x.shape[-1] <= 4:  # one pass per coordinate, and no cancellation
        # sum's type allows for the int 0, which it returns for d = 0 only
        return cast(Tensor, sum((x[..., :, None, c] - y[..., None, :, c]).square() for c in range(x.shape[-1])))
    # |x|^2 + |y|^2 - 2 <x, y> about the mean of y, so that the cancellation is of the size of the cloud
    centre = y.mean(-2, keepdim=True)
    x, y = x - centre, y - centre
    norms = x.square().sum(-1).unsqueeze(-1) + y.square().sum(-1).unsqueeze(-2)
    return (norms - 2 * (x @ y.mT)).clamp(min=0)


def statistic_vjp(kernel: str, weight: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of sum_ij weight_ij D(x_i, y_j) in x and y; weight [..., N, M]."""
    rows, columns = weight.sum(-1).unsqueeze(-1), weight.sum(-2).unsqueeze(-1)
    if kernel in ("gaussian", "imq"):
        centre = y.mean(-2, keepdim=True)
        x, y = x - centre, y - centre
        return 2 * (rows * x - weight @ y), 2 * (columns * y - weight.mT @ x)
    pull = weight.unsqueeze(-1) * (x.unsqueeze(-2) - y.unsqueeze(-3)).sign()
    gx, gy = pull.sum(-2), -pull.sum(-3)
    if kernel == "laplace":
        return gx, gy
    return rows * x.sign() - gx, columns * y.sign() - gy


def profile(kernel: str, s: Tensor) -> tuple[Tensor, Tensor]:
    """k and dk/ds at s = D L / m."""
    if kernel in ("gaussian", "laplace"):
        k = torch.exp(-s)
        return k, -k
    if kernel == "imq":
        k = torch.rsqrt(1 + s)
        return k, -0.5 * k**3
    return s, torch.ones_like(s)


def median(D: Tensor, bandwidth: str) -> Tensor:
    """m of the pairs' statistic D [..., N, M], shaped [..., 1, 1] and at least ``MEDIAN_FLOOR``.

    Under autograd only ``exact`` is differentiable.
    """
    if bandwidth == "bisection":
        m = _bisect(D.detach())
    else:
        # torch.median takes the LOWER of the two middle values, as the official code does
        m = (D if bandwidth == "exact" else D.detach()).flatten(-2).median(-1).values[..., None, None]
    return m.clamp(min=MEDIAN_FLOOR)


def _bisect(D: Tensor) -> Tensor:
    """Lower median by counting: non-negative floats order as their bits, so each step fixes one leading bit."""
    bits = D.float().view(torch.int32)
    rank = (D.shape[-1] * D.shape[-2] - 1) // 2
    found = torch.zeros_like(bits[..., :1, :1])
    for bit in range(30, 30 - BISECTION_STEPS, -1):
        candidate = found + (1 << bit)
        below = (bits < candidate).sum((-2, -1), keepdim=True)
        found = torch.where(below <= rank, candidate, found)
    half = 1 << (30 - BISECTION_STEPS)  # the middle of the interval that is left halves the error
    m = (found + half).view(torch.float32)
    # NaN sorts above every number here, whereas torch.median returns it: keep divergence visible
    return torch.where(D.isnan().any(-1, keepdim=True).any(-2, keepdim=True), torch.nan, m).to(D.dtype)


def gram(x: Tensor, y: Tensor, *, kernel: Kernel = "gaussian", bandwidth: Bandwidth = "exact") -> Tensor:
    """The matrix k(x_i, y_j), [..., N, M], differentiable by autograd; m and L as above with N = rows of x."""
    D = statistic(kernel, x, y)
    return profile(kernel, D * (math.log(x.shape[-2] + 1) / median(D, bandwidth)))[0]
