"""Log likelihood of a regression net with one hidden ReLU layer, and its score, as one differentiable operation.

    f(u; x) = relu(u W1) W2 + b2,   log likelihood = -gamma / 2 sum_i (y_i - f(u_i; x))^2 + const,   u's last entry is 1

A method that follows the score of a Bayesian net multiplies it and its second derivative over [particles, rows, units]
arrays that leave every cache, once per elementwise operation.  Two implementations give the same numbers to float
rounding: plain torch (``plain_*``: any device, left to autograd) and a fused C++ pass that finishes one particle before
the next (CPU, float32 and float64; ``relu_net.cpp``).  Both work under ``vmap``, ``grad``, ``make_fx`` and
``torch.compile``; the fused one is one opaque node per pass there.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from targets import relu_net_native as native

MOST_VECTORS = {torch.float32: 32, torch.float64: 64}
"""Vectors of hidden units that the fused pass can keep gates for: one bit each."""


def net_backend(
    device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32, hidden: int = 1
) -> Literal["fused", "torch"]:
    """Which implementation is taken for tensors of this kind (for the run record)."""
    if torch.device(device).type != "cpu" or dtype not in MOST_VECTORS or native.LIBRARY.get() is None:
        return "torch"
    return "fused" if hidden <= MOST_VECTORS[dtype] * native.width(dtype) else "torch"


def plain_layers(x: Tensor, inputs: Tensor, hidden: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden values and whether they are positive, [..., B, hidden]; W2, [..., hidden]; f, [..., B]."""
    split_at = inputs.shape[-1] * hidden  # W1 and b1 end here
    w2, b2 = x[..., split_at:-1], x[..., -1:]
    before = inputs @ x[..., :split_at].unflatten(-1, (-1, hidden))
    active = (before > 0).to(x.dtype)
    after = before * active
    return after, active, w2, (after @ w2.unsqueeze(-1)).squeeze(-1) + b2


def plain_misfit(x: Tensor, inputs: Tensor, outputs: Tensor, hidden: int, gamma: float) -> Tensor:
    """-gamma / 2 sum_i (y_i - f(u_i; x))^2 in plain torch; [..., d] -> [...] (nats)."""
    *_, f = plain_layers(x, inputs, hidden)
    return -0.5 * gamma * (outputs - f).square().sum(-1)


def plain_score(x: Tensor, inputs: Tensor, outputs: Tensor, hidden: int, gamma: float) -> Tensor:
    """Backpropagation by hand: as cheap to differentiate again as a forward pass; [..., d] -> [..., d]."""
    after, active, w2, f = plain_layers(x, inputs, hidden)
    r = gamma * (outputs - f)
    into_hidden = r.unsqueeze(-1) * w2.unsqueeze(-2) * active
    g1 = inputs.mT @ into_hidden
    g2 = (r.unsqueeze(-2) @ after).squeeze(-2)
    return torch.cat((g1.flatten(-2), g2, r.sum(-1, keepdim=True)), dim=-1)


def misfit(x: Tensor, inputs: Tensor, outputs: Tensor, hidden: int, gamma: float) -> Tensor:
    """-gamma / 2 sum_i (y_i - f(u_i; x))^2, by whichever implementation applies; arguments as ``fused``."""
    if net_backend(x.device, x.dtype, hidden) == "torch":
        return plain_misfit(x, inputs, outputs, hidden, gamma)
    return fused(x, inputs, outputs, hidden, gamma)[0]


def score(x: Tensor, inputs: Tensor, outputs: Tensor, hidden: int, gamma: float) -> Tensor:
    """Gradient of ``misfit`` in x, [..., d], by whichever implementation applies; arguments as ``fused``."""
    if net_backend(x.device, x.dtype, hidden) == "torch":
        return plain_score(x, inputs, outputs, hidden, gamma)
    return fused(x, inputs, outputs, hidden, gamma)[1]


def fused(x: Tensor, inputs: Tensor, outputs: Tensor, hidden: int, gamma: float) -> tuple[Tensor, Tensor]:
    """``misfit`` [...] and its gradient [..., d] by the fused pass; differentiable in x, any number of times.

    Args:
        x: weights: W1 [p, hidden] row by row (its last row is b1), W2 [hidden], b2; [..., d].
        inputs: [B, p], the last column ones.
        outputs: [B].
        hidden: units.
        gamma: noise precision.
    """
    value, gradient, *_ = _Fused.apply(x, inputs, outputs, hidden, gamma)
    return value, gradient


@torch.library.custom_op("sivibench::relu_net_score", mutates_args=())
def _score(
    x: Tensor, inputs: Tensor, outputs: Tensor, hidden: int, gamma: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Value, gradient, and what the second pass needs; x [*R, ..., d], inputs [*R, B, p], outputs [*R, B]."""
    return native.score(x, inputs, outputs, hidden, gamma)


@_score.register_fake
def _(x, inputs, outputs, hidden, gamma):
    x = x.contiguous()
    return (
        x.new_empty(x.shape[:-1]),
        torch.empty_like(x),
        *native.state_like(x, inputs.shape[-2], inputs.shape[-1], hidden),
    )


@torch.library.custom_op("sivibench::relu_net_second", mutates_args=())
def _second(x: Tensor, v: Tensor, inputs: Tensor, gates: Tensor, moments: Tensor, hidden: int, gamma: float) -> Tensor:
    """Second derivative of the value times v, [*R, ..., d]."""
    return native.second(x, v, inputs, gates, moments, hidden, gamma)


@_second.register_fake
def _(x, v, inputs, gates, moments, hidden, gamma):
    return torch.empty_like(x.contiguous())


def _batched(info: Any, dims: tuple, per_particle: tuple, rows: tuple) -> tuple[list[Tensor], list[Tensor]]:
    """Batch dimensions to the front.  Rows that no vmap has batched so far stay shared by all particles."""

    def move(t: Tensor, dim: int | None, always: bool) -> Tensor:
        if dim is not None:
            return t.movedim(dim, 0)
        return t.unsqueeze(0).expand(info.batch_size, *t.shape) if always else t

    n = len(per_particle)
    shared = all(dim is None for dim in dims[n : n + len(rows)]) and rows[0].dim() == 2
    particles = [move(t, dim, True) for t, dim in zip(per_particle, dims[:n], strict=True)]
    return particles, [move(t, dim, not shared) for t, dim in zip(rows, dims[n : n + len(rows)], strict=True)]


class _Fused(torch.autograd.Function):
    """Value and gradient; the second pass is the gradient's own derivative."""

    @staticmethod
    def forward(x, inputs, outputs, hidden, gamma):
        return _score(x, inputs, outputs, hidden, gamma)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        x, rows, responses, ctx.hidden, ctx.gamma = inputs
        _, gradient, gates, moments = output
        ctx.mark_non_differentiable(gates, moments)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, rows, responses, gradient, gates, moments)

    @staticmethod
    def backward(ctx: Any, to_value: Tensor | None, to_gradient: Tensor | None, *_: None):
        x, rows, responses, gradient, gates, moments = ctx.saved_tensors
        total = None if to_value is None else to_value.unsqueeze(-1) * gradient
        if to_gradient is not None:
            product = _Second.apply(x, to_gradient, gates, moments, rows, responses, ctx.hidden, ctx.gamma)
            total = product if total is None else total + product
        return total, None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple, x, inputs, outputs, hidden, gamma):
        (x,), rows = _batched(info, in_dims, (x,), (inputs, outputs))
        return _Fused.apply(x, *rows, hidden, gamma), (0,) * 4


class _Second(torch.autograd.Function):
    """Second derivative times v; its own derivatives, which nothing here is fast for, are those of plain torch."""

    @staticmethod
    def forward(x, v, gates, moments, inputs, outputs, hidden, gamma):
        return _second(x, v, inputs, gates, moments, hidden, gamma)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        x, v, _, _, rows, responses, ctx.hidden, ctx.gamma = inputs
        ctx.save_for_backward(x, v, rows, responses)

    @staticmethod
    def backward(ctx: Any, weight: Tensor):
        x, v, rows, responses = ctx.saved_tensors
        for _ in range(x.dim() - rows.dim() + 1):  # between the batch dimensions of the rows and the rows
            rows, responses = rows.unsqueeze(-3), responses.unsqueeze(-2)

        def product(x: Tensor, v: Tensor) -> Tensor:
            return torch.func.vjp(lambda w: plain_score(w, rows, responses, ctx.hidden, ctx.gamma), x)[1](v)[0]

        return *torch.func.vjp(product, x, v)[1](weight), *(None,) * 6

    @staticmethod
    def vmap(info: Any, in_dims: tuple, x, v, gates, moments, inputs, outputs, hidden, gamma):
        particles, rows = _batched(info, in_dims, (x, v, gates, moments), (inputs, outputs))
        return _Second.apply(*particles, *rows, hidden, gamma), 0
