"""What the script of AISIVI computes, for the speed baseline: grad log q by autograd through [n, k, d] differences.

Not used by any fit.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Normal

from bench.registry import register
from methods.aisivi import AISIVI
from methods.base import Clock, Noise, Player
from methods.bsivi import BSIVI
from methods.parts.conditional_flow import EDGE, SMALLEST_SCALE, ConditionalCoupling, ConditionalRealNVP
from methods.parts.uniform_mixing import PathGradientMethod


def _surrogate(method: PathGradientMethod, x: Tensor, means: Tensor, log_weights: Tensor) -> Tensor:
    """mean <grad log q - s_p, x> with means [k, n, d] (n or 1 in the middle) and log weights [k, n]."""
    fixed = x.detach().requires_grad_()
    log_normal = -0.5 * ((fixed - means) / method.q.sigma.detach()).square().sum(-1)
    (score,) = torch.autograd.grad(torch.logsumexp(log_normal + log_weights, 0).sum(), fixed)
    return ((score - method.target.score(x.detach())).detach() * x).sum(-1).mean()


@register("baseline", "bsivi", source="tpielok/AISIVI: autograd through a normal density of [n, k, d]")
def bsivi_loss(method: BSIVI, player: Player, noise: Noise, clock: Clock) -> Tensor:
    """BSIVI's surrogate with all components at once."""
    z = method.q.mixing(method.batch, noise)
    x = method.q(z, noise.normal(method.batch, method.target.dim))[0]
    with torch.no_grad():
        fresh = method.q.mixing(max(0, method.inner - method.batch), noise)
        means = torch.cat([method.q.mean(z), method.q.mean(fresh)]).unsqueeze(1)
    return _surrogate(method, x, means, x.new_zeros(1, 1))


def _masked(coupling: ConditionalCoupling, z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift of all coordinates of z, with those that pass unchanged masked; one row of x per row of z."""
    mask = (torch.arange(z.shape[-1], device=z.device) % 2 == coupling.parity).to(z.dtype)
    hidden = F.relu(coupling.from_z(mask * z) + coupling.from_x(x))
    s, t = coupling.out(hidden).chunk(2, dim=-1)
    scale = F.softplus(s + math.log(math.e - 1)) + SMALLEST_SCALE
    return mask + (1 - mask) * scale, (1 - mask) * t


def _push(flow: ConditionalRealNVP, eps: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """z ~ tau(. | x) and its log density, row by row: [n, k] and [n]."""
    y, log_tau = eps, Normal(0.0, 1.0).log_prob(eps).sum(-1)
    for coupling in flow.couplings:
        assert isinstance(coupling, ConditionalCoupling)
        scale, shift = _masked(coupling, y, x)
        y = (y * scale + shift) * coupling.log_scale.exp() + coupling.shift
        log_tau = log_tau - (scale.log() + coupling.log_scale).sum(-1)
    return torch.sigmoid(y), log_tau - (F.logsigmoid(y) + F.logsigmoid(-y)).sum(-1)


def _log_tau(flow: ConditionalRealNVP, z: Tensor, x: Tensor) -> Tensor:
    """log tau(z | x), row by row, [n]."""
    y = torch.logit(z, eps=EDGE)
    log_tau = -(F.logsigmoid(y) + F.logsigmoid(-y)).sum(-1)
    for coupling in reversed(list(flow.couplings)):
        assert isinstance(coupling, ConditionalCoupling)
        y = (y - coupling.shift) * torch.exp(-coupling.log_scale)
        scale, shift = _masked(coupling, y, x)
        y = (y - shift) / scale
        log_tau = log_tau - (scale.log() + coupling.log_scale).sum(-1)
    return log_tau + Normal(0.0, 1.0).log_prob(y).sum(-1)


@register("baseline", "aisivi", source="tpielok/AISIVI: masked couplings on repeated rows, autograd through [n, k, d]")
def aisivi_loss(method: AISIVI, player: Player, noise: Noise, clock: Clock) -> Tensor:
    """AISIVI's surrogate with all inner draws at once, or the flow's forward KL."""
    n, d, k = method.batch, method.target.dim, method.q.noise_dim
    z = method.q.mixing(n, noise)
    x = method.q(z, noise.normal(n, d))[0]
    if player.name == "flow":
        return -_log_tau(method.flow, z, x.detach()).mean()
    with torch.no_grad():
        inner, log_tau = _push(method.flow, noise.normal(method.inner * n, k), x.repeat(method.inner, 1))
        means = method.q.mean(inner).view(method.inner, n, d)
    return _surrogate(method, x, means, -log_tau.view(method.inner, n))
