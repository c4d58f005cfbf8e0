"""The direction of KPG-IS (formula: ``kpg_direction``) in one pass over the draws that are used (CPU, float32).

Seed by seed, C++ (``methods.native.kpg``) packs the draws that are used, passes them through the network in strips and
weighs them; the score is evaluated on blocks that stay in the cache.  It is one opaque node of a traced program, which
calls the target when it runs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from methods.native import kpg as native
from methods.native import live
from methods.native.batched import with_seeds
from methods.parts.families import relu_layers
from methods.parts.kpg_direction import ImportanceMethod

BLOCK = 1 << 14
"""Gaussian draws that are passed to the target's score at once."""


def fused(
    method: ImportanceMethod,
    factor: Tensor | float,
    x: Tensor,
    moments: tuple[Tensor, Tensor, Tensor],
    prior: tuple[Tensor, Tensor],
    u: Tensor | None,
    draws: tuple[Tensor, Tensor],
) -> Tensor:
    """As ``kpg_direction.dense``; the target is the method's own.

    Raises:
        KeyError: when the traced program outlives the method.
    """
    linear = relu_layers(method.q.mean)
    assert isinstance(method, nn.Module) and linear is not None
    layers = [t for m in linear for t in (m.weight, m.bias)]
    weight = factor if isinstance(factor, Tensor) else x.new_full((), factor)
    no_choice = x.new_empty(0, 0) if u is None else u
    tensors = [x, weight, *moments, *prior, no_choice, *draws, method.q.sigma, *layers]
    return _direction([t.detach().unsqueeze(0) for t in tensors], live.number(method)).squeeze(0)


@torch.library.custom_op("sivibench::kpg_direction", mutates_args=())
def _direction(tensors: list[Tensor], method: int) -> Tensor:
    """The direction [S, N, d] from tensors [S, ...] in the order of ``fused``, and the method's number."""
    out = torch.empty(tensors[0].shape, dtype=tensors[0].dtype)
    for seed, result in enumerate(out):
        _one_seed(live.module(method), [t[seed].contiguous() for t in tensors], result)
    return out


@_direction.register_fake
def _(tensors, method):
    return torch.empty(tensors[0].shape, dtype=tensors[0].dtype, device=tensors[0].device)


@_direction.register_vmap
def _(info, in_dims, tensors, method):
    batched = [t.flatten(0, 1) for t in with_seeds(info, in_dims[0], tensors)]
    return _direction(batched, method).unflatten(0, (info.batch_size, -1)), 0


def _one_seed(method: Any, tensors: list[Tensor], out: Tensor) -> None:
    x, factor, m, s, alpha, z, xi, choice, eps, own_xi, sigma, *layers = tensors
    u = choice if choice.numel() else None
    (N, d), (c, k) = x.shape, eps.shape[1:]
    each = c if u is None else u.shape[1]  # Gaussian draws of a row at most
    rows = min(N, max(1, BLOCK // each))
    forward, score = native.Network(layers, sigma), method.target.score

    def evaluate(z: Tensor, xi: Tensor, y: Tensor, f: Tensor) -> None:
        """x' and s_c - s_p there, into y and f."""
        forward(z, xi, y, f)
        f.addcmul_(score(y), factor).neg_()

    y, f = torch.empty_like(xi), torch.empty_like(xi)
    evaluate(z, xi, y, f)
    own_y, own_f = x.new_empty(N * each, d), x.new_empty(N * each, d)
    odds, count = x.new_empty(N * each), torch.empty(N, dtype=torch.int64)
    block_z, block_xi = x.new_empty(rows * each, k), x.new_empty(rows * each, d)
    n = 0
    for first in range(0, N, rows):
        room = (block_z, block_xi, odds[n:], count)
        found = native.gather(first, min(first + rows, N), u, (alpha, m, s), (eps, own_xi), room)
        part = slice(n, n + found)
        if found:
            evaluate(block_z[:found], block_xi[:found], own_y[part], own_f[part])
        n += found
    native.weigh(x, u, (alpha, m, s), (z, y, f), (own_y[:n], own_f[:n], odds, count), c, method.bandwidth, out)
