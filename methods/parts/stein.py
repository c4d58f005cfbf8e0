"""The pairwise block of the kernel Stein discrepancy as one operation with closed-form gradients.

    KSD^2 = E[ k(x, x') <f(x, z), f(x', z')> ],   f = s_p(x) - grad_x log q(x | z)  (Cheng et al. 2024, 2405.18997)

Autograd over [N, N] arrays is where a KSIVI step spends its time: this operation computes value and all four gradients
at once, so that a step only pulls them back through the networks.  Two implementations give the same numbers to float
rounding: ``closed_form`` (batched torch, any device and dtype) and a fused C++ pass (``methods.native.stein``; CPU,
float32).  Both work under ``vmap``, ``grad``, ``make_fx`` and ``torch.compile``; the fused one is a single opaque node
there.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from methods.native import stein as native
from methods.native.batched import require_one_dtype, with_seeds
from methods.parts import kernels
from methods.parts.kernels import BANDWIDTHS, KERNELS, Bandwidth, Kernel

Backend = Literal["auto", "torch", "fused"]
Pairs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def stein_discrepancy(
    x: Tensor,
    y: Tensor,
    f: Tensor,
    g: Tensor,
    *,
    kernel: Kernel = "gaussian",
    bandwidth: Bandwidth = "exact",
    ustat: bool = False,
    backend: Backend = "auto",
) -> Tensor:
    """Estimate of KSD^2 from two batches (vanilla) or one (u-statistic); once differentiable in all four tensors.

    Vanilla: (1 / N M) sum_ij k(x_i, y_j) <f_i, g_j>.  U-statistic: (1 / N(N-1)) sum_{i != j} k(x_i, x_j) <f_i, f_j>;
    its bandwidth is the median over all N^2 values, zero diagonal included, as in the official code (which divides by
    N^2, a constant factor).

    Args:
        x: draws, [..., N, d].
        y: independent draws, [..., M, d]; the u-statistic uses x in its place.
        f: s_p - grad log q(x | z) at x, [..., N, d].
        g: the same at y, [..., M, d]; the u-statistic uses f in its place.
        kernel: see ``methods.parts.kernels``.
        bandwidth: rule for the median m, see ``methods.parts.kernels.Bandwidth``; ``exact`` is differentiated through.
        ustat: the u-statistic instead of the vanilla one.
        backend: ``auto`` (fused where it applies), or one of the two by name.

    Returns:
        The estimate, [...]; NaN where an argument is not finite.

    Raises:
        ValueError: an unknown name, shapes or precisions that do not match, or ``fused`` where it does not apply.
    """
    if kernel not in KERNELS or bandwidth not in BANDWIDTHS or backend not in ("auto", "torch", "fused"):
        raise ValueError(f"unknown kernel {kernel!r}, bandwidth {bandwidth!r} or backend {backend!r}")
    if ustat:
        y, g = x, f
    require_one_dtype(x=x, y=y, f=f, g=g)
    if (x.shape, y.shape, x.shape[:-2], x.shape[-1]) != (f.shape, g.shape, y.shape[:-2], y.shape[-1]):
        raise ValueError(f"shapes x {x.shape}, f {f.shape}, y {y.shape}, g {g.shape} do not match")
    return _SteinPairs.apply(x, y, f, g, kernel, bandwidth, ustat, backend)[0]


def stein_backend(device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> Literal["fused", "torch"]:
    """Which implementation ``auto`` takes for tensors of this device and dtype (for the run record)."""
    applies = torch.device(device).type == "cpu" and dtype == torch.float32
    return "fused" if applies and native.LIBRARY.get() is not None else "torch"


def closed_form(x: Tensor, y: Tensor, f: Tensor, g: Tensor, kernel: str, bandwidth: str, ustat: bool) -> Pairs:
    """Value [...] and gradients in x, y, f, g, in plain torch; arguments [..., N, d] and [..., M, d]."""
    N, M = x.shape[-2], y.shape[-2]
    pairs, L = (N * (N - 1) if ustat else N * M), math.log(N + 1)
    D = kernels.statistic(kernel, x, y)
    m = kernels.median(D, bandwidth)
    s = D * (L / m)
    k, dk = kernels.profile(kernel, s)
    if ustat:
        off_diagonal = 1 - torch.eye(N, dtype=x.dtype, device=x.device)
        k, dk = k * off_diagonal, dk * off_diagonal
    a = f @ g.mT
    P = dk * a  # dloss/ds, up to 1 / pairs
    W = P * (L / m)  # dloss/dD at fixed m
    if bandwidth == "exact":
        # ds/dm = -s/m; torch.median shares the gradient of m evenly between equal values, and so do we
        tied = (D == m) & (m > kernels.MEDIAN_FLOOR)
        share = tied.to(x.dtype) / tied.sum((-2, -1), keepdim=True).clamp(min=1)
        pull = (P * s).sum((-2, -1), keepdim=True) / m
        W = W - torch.where(m > kernels.MEDIAN_FLOOR, pull, 0.0) * share  # at the floor it may overflow
    gx, gy = kernels.statistic_vjp(kernel, W / pairs, x, y)
    return (k * a).sum((-2, -1)) / pairs, gx, gy, k @ g / pairs, k.mT @ f / pairs


@torch.library.custom_op("sivibench::stein_pairs", mutates_args=())
def _fused(
    x: Tensor, y: Tensor, f: Tensor, g: Tensor, kernel: str, bandwidth: str, ustat: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Value [...] and gradients by the fused pass: one opaque node of a traced program."""

    def flat(t: Tensor) -> Tensor:
        return t.reshape(-1, *t.shape[-2:])

    loss, gx, gy, gf, gg = native.fused_pairs(flat(x), flat(y), flat(f), flat(g), kernel, bandwidth, ustat)
    return loss.reshape(x.shape[:-2]), gx.reshape_as(x), gy.reshape_as(y), gf.reshape_as(f), gg.reshape_as(g)


@_fused.register_fake
def _(x, y, f, g, kernel, bandwidth, ustat):
    like = (torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (x, y, f, g))
    return torch.empty(x.shape[:-2], dtype=x.dtype, device=x.device), *like


def _pairs(x: Tensor, y: Tensor, f: Tensor, g: Tensor, kernel: str, bandwidth: str, ustat: bool, backend: str) -> Pairs:
    """Value [...] and gradients; the choice is made while tracing, so the compiler sees into the torch one."""
    available = stein_backend(x.device, x.dtype)
    if backend == "fused" and available != "fused":
        raise ValueError(f"the fused Stein pass is not available for {x.dtype} on {x.device} here; use backend='torch'")
    if backend == "torch" or available == "torch":
        return closed_form(x, y, f, g, kernel, bandwidth, ustat)
    return _fused(x, y, f, g, kernel, bandwidth, ustat)


class _SteinPairs(torch.autograd.Function):
    """The operation with its gradients attached, for ``autograd`` and for ``torch.func``."""

    @staticmethod
    def forward(x, y, f, g, kernel, bandwidth, ustat, backend):
        return _pairs(x, y, f, g, kernel, bandwidth, ustat, backend)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Pairs) -> None:
        ctx.set_materialize_grads(False)  # so that backward sees whether the gradients themselves were differentiated
        ctx.save_for_backward(*output[1:])

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor | None, *grads_of_gradients: Tensor | None):
        if any(t is not None for t in grads_of_gradients):
            raise NotImplementedError("stein_discrepancy has no second derivatives; build the loss from kernels.gram")
        if grad_loss is None:
            return (None,) * 8
        return *(grad_loss[..., None, None] * t for t in ctx.saved_tensors), None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple, x, y, f, g, kernel, bandwidth, ustat, backend):
        batched = with_seeds(info, in_dims[:4], (x, y, f, g))
        return _SteinPairs.apply(*batched, kernel, bandwidth, ustat, backend), (0,) * 5
