"""Large networks inside a loss: activations computed again instead of kept, arithmetic in bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

Precision = Literal["float32", "bfloat16"]


class _Recomputed(torch.autograd.Function):
    """function(*tensors), whose backward pass calls it again: only its inputs are kept.

    ``torch.utils.checkpoint`` works by hooks on saved tensors, which do not exist under ``torch.func``.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        return function(*tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.function = inputs[0]
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        needed, values = ctx.needs_input_grad[1:], list(ctx.saved_tensors)
        moving = [i for i, wanted in enumerate(needed) if wanted]

        def of_moving(*chosen: Tensor) -> Tensor:
            for i, value in zip(moving, chosen, strict=True):
                values[i] = value
            out: Tensor = ctx.function(*values)
            return out

        pull_back = torch.func.vjp(of_moving, *(values[i] for i in moving))[1]
        found = dict(zip(moving, pull_back(gradient), strict=True))
        return None, *(found.get(i) for i in range(len(values)))


def evaluated(net: nn.Module, x: Tensor, t: Tensor, *, precision: Precision, recompute: bool) -> Tensor:
    """net(x, t) in x's type; [n, d] and [n] -> [n, d].

    Args:
        net: a network eps(x, t) that takes t in float32 whatever x is in.
        x, t: rows and times.
        precision: ``bfloat16`` evaluates a copy of the network in it; parameters, losses and optimisers stay as they
            are.  (``torch.autocast`` does not reach into a function that is called again under ``torch.func``.)
        recompute: keep only x for the backward pass and evaluate the network again there: a quarter to a half more
            work, and of several networks in one loss only one's activations exist at once.
    """
    # everything that differs between seeds or has a gradient is an input: torch.func sees nothing that is closed over
    named = dict(net.named_parameters())
    wanted = torch.bfloat16 if precision == "bfloat16" else x.dtype

    def call(x: Tensor, t: Tensor, *values: Tensor) -> Tensor:
        cast = {name: value.to(wanted) for name, value in zip(named, values, strict=True)}
        out: Tensor = functional_call(net, cast, (x.to(wanted), t))
        return out.to(x.dtype)

    out: Tensor = _Recomputed.apply(call, x, t, *named.values()) if recompute else call(x, t, *named.values())
    return out
