"""A ReLU network as one operation with its gradients, for losses that differentiate it once.

Autograd writes every elementwise step of a layer to memory and reads it back, and a general product is made for more
than two or three columns.  The fused C++ passes (``methods.native.relu_mlp``; CPU, float32) apply bias, ReLU and
gate while a value is in a register, and give the same numbers as the network itself to float rounding.  They work under
``vmap``, ``grad`` and ``make_fx``, in whose graph, compiled or not, each is a single opaque node.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from methods.native import relu_mlp as native
from methods.native.batched import with_seeds
from methods.parts.families import relu_layers


def relu_mlp(net: nn.Module, x: Tensor) -> Tensor:
    """``net(x)``, by the fused passes where they apply; [n, d] -> [n, d'].

    Args:
        net: any network; the fused passes are for linear maps with biases and ReLUs between them.
        x: [n, d]; they are for [n, d] of the network's precision and device, n > 0.

    Raises:
        NotImplementedError: when the gradient of the fused passes is itself differentiated.
    """
    linear = native_layers(net, x)
    if linear is None or mlp_backend() != "fused":
        out: Tensor = net(x)
        return out
    return _ReluMLP.apply(x, *(m.weight for m in linear), *(m.bias for m in linear))[0]


def native_layers(net: nn.Module, x: Tensor) -> list[nn.Linear] | None:
    """The linear maps of a ReLU network that native code (CPU, float32) may read, with inputs x [n, d]; else None.

    It reads bare memory: what it would misread is left to torch, which knows it or refuses it.  It calls no hooks.
    """
    linear = relu_layers(net)
    if linear is None or any(m.bias is None for m in linear):
        return None
    if any(first.out_features != second.in_features for first, second in pairwise(linear)):
        return None
    if x.dim() != 2 or 0 in x.shape or x.shape[1] != linear[0].in_features:
        return None
    tensors = [x, *(p for m in linear for p in (m.weight, m.bias))]
    return linear if all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors) else None


def mlp_backend(device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> Literal["fused", "torch"]:
    """Which implementation a ReLU network's tensors of this device and dtype take (for the run record)."""
    applies = torch.device(device).type == "cpu" and dtype == torch.float32
    return "fused" if applies and native.LIBRARY.get() is not None else "torch"


@torch.library.custom_op("sivibench::relu_mlp", mutates_args=())
def _forward(tensors: list[Tensor]) -> list[Tensor]:
    """x [S, n, d], the weights [S, out, in] and the biases [S, out] -> the outputs [S, n, d'] and hidden values."""
    x, weights, biases = _split(tensors)
    out, hidden = native.forward(x, weights, biases)
    return [out, *hidden]


@_forward.register_fake
def _(tensors):
    x, weights, _ = _split(tensors)
    x = x.contiguous()
    return [x.new_empty(*x.shape[:-1], weights[-1].shape[-2]), *native.hidden_like(x, weights)]


@torch.library.custom_op("sivibench::relu_mlp_backward", mutates_args=())
def _backward(
    g: Tensor, x: Tensor, weights: list[Tensor], hidden: list[Tensor], wants_x: bool, wants_weights: bool
) -> list[Tensor]:
    """Gradients in x, then in the weights, then in the biases: those that are wanted."""
    gx, of_weights, of_biases = native.backward(g, x, weights, hidden, wants_x, wants_weights)
    return [*([gx] if wants_x else []), *of_weights, *of_biases]


@_backward.register_fake
def _(g, x, weights, hidden, wants_x, wants_weights):
    of_x = [torch.empty_like(x.contiguous())] if wants_x else []
    if not wants_weights:
        return of_x
    return [*of_x, *(g.new_empty(w.shape) for w in weights), *(g.new_empty(w.shape[:-1]) for w in weights)]


def _split(tensors: list[Tensor]) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    x, *parameters = tensors
    layers = len(parameters) // 2
    return x, parameters[:layers], parameters[layers:]


def _flat(t: Tensor, own: int) -> Tensor:
    """[..., own dimensions] -> [S, own dimensions]."""
    return t.reshape(-1, *t.shape[t.dim() - own :])


class _ReluMLP(torch.autograd.Function):
    """The network for ``autograd`` and ``torch.func``; x [..., n, d], the weights [..., out, in], biases [..., out]."""

    @staticmethod
    def forward(*tensors: Tensor):
        x, weights, biases = _split(list(tensors))
        found = _forward([*(_flat(t, 2) for t in (x, *weights)), *(_flat(b, 1) for b in biases)])
        return tuple(t.reshape(*x.shape[:-2], *t.shape[1:]) for t in found)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        x, weights, _ = _split(list(inputs))
        _, *hidden = output
        ctx.mark_non_differentiable(*hidden)
        ctx.set_materialize_grads(False)  # of hidden values there are none
        ctx.save_for_backward(x, *weights, *hidden)

    @staticmethod
    def backward(ctx: Any, g: Tensor, *_: Any):
        wants_x, wants_weights = ctx.needs_input_grad[0], any(ctx.needs_input_grad[1:])
        found = _Gradients.apply(wants_x, wants_weights, g, *ctx.saved_tensors)
        of_x, of_parameters = found[:wants_x], found[wants_x:]
        return (*(of_x or [None]), *(of_parameters or [None] * len(ctx.needs_input_grad[1:])))

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *tensors: Tensor):
        found = _ReluMLP.apply(*with_seeds(info, in_dims, tensors))
        return found, (0,) * len(found)


class _Gradients(torch.autograd.Function):
    """The gradients that are wanted, in x, weights and biases, from that in the outputs; theirs are not built."""

    @staticmethod
    def forward(wants_x: bool, wants_weights: bool, *tensors: Tensor):
        g, x, *rest = (_flat(t, 2) for t in tensors)
        layers = (len(rest) + 1) // 2
        found = _backward(g, x, rest[:layers], rest[layers:], wants_x, wants_weights)
        return tuple(t.reshape(*tensors[0].shape[:-2], *t.shape[1:]) for t in found)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Any):
        raise NotImplementedError("relu_mlp has no second derivatives; call the network itself")

    @staticmethod
    def vmap(info: Any, in_dims: tuple, wants_x: bool, wants_weights: bool, *tensors: Tensor):
        found = _Gradients.apply(wants_x, wants_weights, *with_seeds(info, in_dims[2:], tensors))
        return found, (0,) * len(found)
