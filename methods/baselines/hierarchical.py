"""What plain scripts compute for the hierarchical methods, for the speed baseline only: densities of all pairs."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from bench.registry import register
from methods.base import Clock, Noise, Player
from methods.dsivi import DSIVI
from methods.iwhvi import DIWHVI, HVM, IWHVI


def _bound(method: IWHVI | HVM | DIWHVI, n: int, noise: Noise) -> tuple[Tensor, Tensor]:
    """x [n, d] and U_K [n], with z_0 and the K draws of tau in one array [K + 1, n, k] and one pass of the network."""
    z0, d, k = noise.normal(n, method.noise_dim), method.target.dim, method.noise_dim
    first = method.conditional(z0)
    x = first.mean + first.stddev * noise.normal(n, d)
    mean, log_sd = method.moments(x)
    z = torch.cat([z0.unsqueeze(0), mean + log_sd.exp() * noise.normal(method.inner, n, k)])
    tau = Independent(Normal(mean, log_sd.exp(), validate_args=False), 1)
    prior = Independent(Normal(torch.zeros_like(z0), 1.0, validate_args=False), 1)
    log_w = method.conditional(z).log_prob(x) + prior.log_prob(z) - tau.log_prob(z)
    return x, torch.logsumexp(log_w, 0) - math.log(method.inner + 1)


@register("baseline", "iwhvi", source="artsobolev/IWHVI, as a plain script")
def iwhvi_loss(method: IWHVI, player: Player, noise: Noise, clock: Clock) -> Tensor:
    """E[U_K - log p] by torch's distributions."""
    x, log_q = _bound(method, method.batch, noise)
    return (log_q - method.target.log_prob(x)).mean()


@register("baseline", "hvm", source="IWHVI's script at K = 0")
def hvm_loss(method: HVM, player: Player, noise: Noise, clock: Clock) -> Tensor:
    """The same at K = 0."""
    x, log_q = _bound(method, method.batch, noise)
    return (log_q - method.target.log_prob(x)).mean()


@register("baseline", "diwhvi", source="artsobolev/IWHVI with M > 1, as a plain script")
def diwhvi_loss(method: DIWHVI, player: Player, noise: Noise, clock: Clock) -> Tensor:
    """Minus the doubly weighted bound."""
    x, log_q = _bound(method, method.batch * method.outer, noise)
    log_ratio = (method.target.log_prob(x) - log_q).view(method.batch, method.outer)
    return -(torch.logsumexp(log_ratio, 1) - math.log(method.outer)).mean()


@register("baseline", "dsivi", source="SIVI's script with a bound on the prior: pairwise differences [J, K, d]")
def dsivi_loss(method: DSIVI, player: Player, noise: Noise, clock: Clock) -> Tensor:
    """-L_{K1,K2} from the [J, K1 + 1, d] array of differences."""
    J, d, sigma = method.outer, method.target.dim, method.q.sigma
    own = method.q.mean(noise.normal(J, method.q.noise_dim))
    x = own + sigma * noise.normal(J, d)
    others = method.q.mean(noise.normal(method.auxiliary, method.q.noise_dim))
    means = torch.cat([own.unsqueeze(1), others.expand(J, -1, -1)], dim=1)
    log_q = Normal(means, sigma, validate_args=False).log_prob(x.unsqueeze(1)).sum(-1)
    log_q = torch.logsumexp(log_q, 1) - math.log(method.auxiliary + 1)
    return (log_q - method.log_joint(x, noise)).mean()
