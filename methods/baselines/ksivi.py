"""What the published scripts of KSIVI compute, for the speed baseline: autograd through the [N, N] kernel matrix.

Not used by any fit.  ``bench.speed`` times these one seed at a time, beside the suite's own step.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bench.registry import register
from methods.base import Clock, Noise, Player
from methods.hksivi import HKSIVI
from methods.ksivi import KSIVI
from methods.parts.families import anneal
from methods.parts.kernels import profile
from methods.parts.precondition import precondition


@register(
    "baseline", "ksivi", source="longinYu/KSIVI: pairwise differences [N, N, d], autograd through kernel and median"
)
def ksivi_loss(method: KSIVI, player: Player, noise: Noise, clock: Clock) -> Tensor:
    """KSD^2 of two batches, or the u-statistic of one (always the exact median), and what a tuned target adds to it."""
    p, a, ustat = method.target.subsample(noise), anneal(clock, method.anneal), method.statistic == "ustat"
    x, u = method.q.draw(method.batch, noise)
    y, v = (x, u) if ustat else method.q.draw(method.batch, noise)
    f, g = a * p.score(x) + u, a * p.score(y) + v
    (left, f), (right, g) = (precondition(points, h, x, method.precondition) for points, h in ((x, f), (y, g)))
    loss = discrepancy(left, right, f, g, method.kernel, method.bandwidth, ustat)
    return loss if method.regulariser == 0 else loss - method.regulariser * a * p.log_prob(x).mean()


@register("baseline", "hksivi", source="as ksivi, layer by layer")
def hksivi_loss(method: HKSIVI, player: Player, noise: Noise, clock: Clock) -> Tensor:
    """The sum over layers of KSD^2 with each layer's kernel matrix."""
    rungs = method.target.subsample(noise).bridge(len(method.layers), method.base_sd, method.ladder)
    x, N = method.base_sd * noise.normal(method.rows, method.noise_dim), method.batch
    total = x.new_zeros(())
    for layer, p in zip(method.layers, rungs, strict=True):
        x, u = layer(x.detach(), noise.normal(method.rows, method.target.dim))
        f = p.score(x) + u
        total = total + discrepancy(x[:N], x[N:], f[:N], f[N:], method.kernel, method.bandwidth)
    return total


def discrepancy(x: Tensor, y: Tensor, f: Tensor, g: Tensor, kernel: str, bandwidth: str, ustat: bool = False) -> Tensor:
    """KSD^2 with the kernel matrix built from [N, N, d] differences; without its diagonal as the u-statistic."""
    difference = x[:, None, :] - y[None, :, :]
    if kernel in ("gaussian", "imq"):
        statistic = difference.square().sum(-1)
    else:
        statistic = difference.abs().sum(-1)
        if kernel == "riesz":
            statistic = x[:, None, :].abs().sum(-1) + y[None, :, :].abs().sum(-1) - statistic
    median = torch.median(statistic)
    median = median if bandwidth == "exact" else median.detach()
    k, _ = profile(kernel, statistic * math.log(len(x) + 1) / median)
    values = k * (f @ g.T)
    return (values.sum() - values.trace()) / (len(x) * (len(x) - 1)) if ustat else values.mean()
