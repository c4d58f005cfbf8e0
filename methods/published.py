"""What the published scripts compute, for the speed baseline: autograd through the [N, N] kernel matrix.

Not used by any fit.  ``bench.speed`` times these one seed at a time, beside the suite's own step.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bench.registry import register
from methods.base import Clock, Noise, Player
from methods.families import anneal
from methods.kernels import profile
from methods.ksivi import KSIVI


@register(
    "baseline", "ksivi", source="longinYu/KSIVI: pairwise differences [N, N, d], autograd through kernel and median"
)
def ksivi_loss(method: KSIVI, player: Player, noise: Noise, clock: Clock) -> Tensor:
    """KSD^2 of two batches with the kernel matrix built from [N, N, d] differences (always the exact median)."""
    (x, u), (y, v) = method.q.draw(method.batch, noise), method.q.draw(method.batch, noise)
    f = anneal(clock, method.anneal) * method.target.score(x) + u
    g = anneal(clock, method.anneal) * method.target.score(y) + v
    difference = x[:, None, :] - y[None, :, :]
    if method.kernel in ("gaussian", "imq"):
        statistic = difference.square().sum(-1)
    else:
        statistic = difference.abs().sum(-1)
        if method.kernel == "riesz":
            statistic = x[:, None, :].abs().sum(-1) + y[None, :, :].abs().sum(-1) - statistic
    median = torch.median(statistic)
    median = median if method.bandwidth == "exact" else median.detach()
    k, _ = profile(method.kernel, statistic * math.log(method.batch + 1) / median)
    return (k * (f @ g.T)).mean()
