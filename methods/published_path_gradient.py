"""What the script of AISIVI computes, for the speed baseline: grad log q by autograd through [n, k, d] differences.

Not used by any fit (see ``methods.published``).
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench.registry import register
from methods.aisivi import AISIVI
from methods.base import Clock, Noise, Player
from methods.bsivi import BSIVI
from methods.uniform_mixing import PathGradientMethod


def _surrogate(method: PathGradientMethod, x: Tensor, means: Tensor, log_weights: Tensor) -> Tensor:
    fixed = x.detach().requires_grad_()
    log_normal = -0.5 * ((fixed[:, None, :] - means) / method.q.sigma.detach()).square().sum(-1)
    (score,) = torch.autograd.grad(torch.logsumexp(log_normal + log_weights, 1).sum(), fixed)
    return ((score - method.target.score(x.detach())).detach() * x).sum(-1).mean()


@register("baseline", "bsivi", source="tpielok/AISIVI: autograd through a normal density of [n, k, d]")
def bsivi_loss(method: BSIVI, player: Player, noise: Noise, clock: Clock) -> Tensor:
    """BSIVI's surrogate with all components at once."""
    z = method.q.mixing(method.batch, noise)
    x = method.q(z, noise.normal(method.batch, method.target.dim))[0]
    with torch.no_grad():
        fresh = method.q.mixing(max(0, method.inner - method.batch), noise)
        means = torch.cat([method.q.mean(z), method.q.mean(fresh)]).unsqueeze(0)
    return _surrogate(method, x, means, torch.zeros(1, 1))


@register(
    "baseline", "aisivi", source="tpielok/AISIVI: context repeated for every inner draw, autograd through [n, k, d]"
)
def aisivi_loss(method: AISIVI, player: Player, noise: Noise, clock: Clock) -> Tensor:
    """AISIVI's surrogate with all inner draws at once, or the flow's forward KL."""
    if player.name == "flow":
        return method.forward_kl(noise, clock)
    n, d = method.batch, method.target.dim
    x = method.q(method.q.mixing(n, noise), noise.normal(n, d))[0]
    with torch.no_grad():
        rows = x.repeat_interleave(method.inner, 0)
        z, log_tau = method.flow.push(noise.normal(len(rows), method.q.noise_dim), rows)
        means = method.q.mean(z).view(n, method.inner, d)
    return _surrogate(method, x, means, -log_tau.view(n, method.inner))
