"""The direction Delta(x_j) of KPG-IS as one operation without gradients.

    z'_ji ~ alpha_j q(z') + (1 - alpha_j) N(m_j, s_j^2),   x'_ji = mu(z'_ji) + sigma xi_ji
    Delta(x_j) = (1 / l) sum_i k(x_j, x'_ji) q(z'_ji) / tau(z'_ji | x_j) (s_c - s_p)(x'_ji)

Two implementations give the same numbers from the same draws, to float rounding.  ``dense``, here, evaluates every
Gaussian draw that could be used and masks the others (batched torch, any device); ``kpg_fused`` (CPU, float32) works
seed by seed in C++.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, Protocol

import torch
from torch import Tensor

from methods.native import kpg as native
from methods.parts import kernels
from methods.parts.families import Diagonal, GlobalVariance, relu_layers
from methods.parts.proposal import prior_over_mixture
from targets.base import Target


class ImportanceMethod(Protocol):
    """What the operation needs of the method."""

    q: GlobalVariance
    target: Target
    rows: int

    @property
    def bandwidth(self) -> kernels.Bandwidth:
        """Rule for the median."""


def importance_backend(method: ImportanceMethod) -> Literal["fused", "torch"]:
    """Which implementation is taken, for the run record and while tracing.

    The fused one calls the target when it runs, so it wants a score of closed form and the same target in every step;
    a target whose evaluations are being counted is given all of them.
    """
    parameter, target = method.q.log_var, method.target
    if parameter.device.type != "cpu" or parameter.dtype != torch.float32:
        return "torch"
    if (
        type(method.q).forward is not Diagonal.forward
        or relu_layers(method.q.mean) is None
        or "score" in target.__dict__
    ):
        return "torch"
    if type(target).score is Target.score or type(target).subsample is not Target.subsample:
        return "torch"
    return "fused" if native.LIBRARY.get() is not None else "torch"


def dense(
    method: ImportanceMethod,
    p: Target,
    factor: Tensor | float,
    x: Tensor,
    moments: tuple[Tensor, Tensor, Tensor],
    prior: tuple[Tensor, Tensor],
    u: Tensor | None,
    draws: tuple[Tensor, Tensor],
) -> Tensor:
    """The direction at x [N, d], written for one seed.

    Args:
        method: its q, bandwidth and chunk size.
        p: the target as this loss sees it.
        factor: of the target's score.
        x: points.
        moments: m [N, k], s [N, k] and alpha [N, 1] of the proposal.
        prior: z [l, k] and xi [l, d] of the draws shared by all x_j.
        u: uniforms [N, l] that choose the component; None: stratified, all draws are used.
        draws: eps [N, c, k] and xi [N, c, d] of each row's Gaussian draws.
    """
    (m, s, alpha), (eps, xi), z = moments, draws, prior[0]
    l, c = len(z), eps.shape[-2]
    log_s = s.log().sum(-1, keepdim=True)

    def difference(z: Tensor, xi: Tensor) -> tuple[Tensor, Tensor]:
        """x' and s_c - s_p there, for rows z [n, ..., k]."""
        y, minus_s_c = method.q(z, xi)
        return y, -(minus_s_c + factor * p.score(y))

    y, f = difference(*prior)
    D = kernels.statistic("gaussian", x, y)
    ratio = prior_over_mixture(0.5 * (kernels.squares(z) - whitened(z, m, s)) - log_s, alpha)

    own_z = m.unsqueeze(1) + s.unsqueeze(1) * eps
    own_y, own_f = in_chunks(difference, method.rows, own_z, xi)
    own_D = kernels.squares(x.unsqueeze(1) - own_y)
    own_ratio = prior_over_mixture(0.5 * (kernels.squares(own_z) - kernels.squares(eps)) - log_s, alpha)

    if u is None:
        share, own_share = alpha / l, (1 - alpha) / c
        distances = torch.cat([D, own_D], dim=1)
    else:
        from_prior = u < alpha
        used, at_index = own_draws(from_prior, own_D)
        share, own_share = from_prior / l, used / l
        distances = torch.where(from_prior, D, at_index)
    scale = math.log(l + 1) / kernels.median(distances, method.bandwidth)
    w = torch.exp(-scale * D) * ratio * share
    own_w = torch.exp(-scale * own_D) * own_ratio * own_share
    return w @ f + (own_w.unsqueeze(-1) * own_f).sum(-2)


def in_chunks(
    function: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], rows: int, a: Tensor, b: Tensor
) -> tuple[Tensor, Tensor]:
    """``function(a, b)`` for ``rows`` rows at a time: bounds the memory of what it computes on the way."""
    parts = [function(a[i : i + rows], b[i : i + rows]) for i in range(0, len(a), rows)]
    first, second = zip(*parts, strict=True)
    return torch.cat(first), torch.cat(second)


def own_draws(from_prior: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Which of each row's c Gaussian draws are used, [N, c], and ``values`` [N, c] of the draw at each index i, [N, l].

    The t-th index of a row that is not from the prior takes the row's t-th draw; with as many draws as indices each
    index has its own.  Entries at indices from the prior are meaningless.
    """
    l, c = from_prior.shape[-1], values.shape[-1]
    if c == l:
        return ~from_prior, values
    rank = (~from_prior).cumsum(-1)
    used = torch.arange(c, device=values.device) < rank[..., -1:]
    return used, values.gather(-1, (rank - 1).clamp(0, c - 1))


def whitened(z: Tensor, m: Tensor, s: Tensor) -> Tensor:
    """|(z_i - m_j) / s_j|^2 for all pairs; z [l, k], m and s [N, k] -> [N, l]."""
    if z.shape[-1] > 4:
        return ((z - m.unsqueeze(-2)) / s.unsqueeze(-2)).square().sum(-1)
    r = 1 / s
    total = ((z[:, 0] - m[:, :1]) * r[:, :1]).square()
    for i in range(1, z.shape[-1]):
        total = total + ((z[:, i] - m[:, i : i + 1]) * r[:, i : i + 1]).square()
    return total
