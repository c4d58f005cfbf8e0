"""A part of a loss that needs no gradient, run for one seed after the other: one opaque node of a traced program.

Batched over seeds, a large inner estimate ([S, rows, width] activations) streams through the memory; one seed at a time
and in chunks, it stays in a core's cache.  The traced program holds one node, however many chunks there are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from methods.native import live
from methods.native.batched import with_seeds


class _Caller(nn.Module):
    """Lets ``functional_call`` run a function of a module with replaced parameters."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, name: str, tensors: Sequence[Tensor]) -> Tensor:
        out: Tensor = getattr(self.module, name)(*tensors)
        return out


def seedwise(module: nn.Module, name: str, *tensors: Tensor) -> Tensor:
    """``module.name(*tensors)`` with the seed's parameters and without gradients; shaped as the first tensor.

    The function sees ordinary tensors of one seed when the program runs, so it may loop, write in place and call
    libraries.  Of ``module`` it may use parameters and what is the same for all seeds.

    Raises:
        KeyError: when the traced program outlives the module.
    """
    values = [t.detach().unsqueeze(0) for t in (*tensors, *module.parameters())]
    return _run(values, live.number(module), name).squeeze(0)


@torch.library.custom_op("sivibench::seedwise", mutates_args=())
def _run(tensors: list[Tensor], module: int, name: str) -> Tensor:
    """All seeds: the arguments of the function, then the module's parameters, [S, ...] each; -> [S, ...]."""
    out = torch.empty_like(tensors[0], memory_format=torch.contiguous_format)
    caller = _Caller(live.module(module))
    names = [parameter for parameter, _ in caller.named_parameters()]
    for seed, result in enumerate(out):
        mine = [t[seed] for t in tensors]
        arguments = len(mine) - len(names)
        values = dict(zip(names, mine[arguments:], strict=True))
        result.copy_(functional_call(caller, values, (name, mine[:arguments])))
    return out


@_run.register_fake
def _(tensors, module, name):
    return torch.empty_like(tensors[0], memory_format=torch.contiguous_format)


@_run.register_vmap
def _(info, in_dims, tensors, module, name):
    batched = [t.flatten(0, 1) for t in with_seeds(info, in_dims[0], tensors)]
    return _run(batched, module, name).unflatten(0, (info.batch_size, -1)), 0
