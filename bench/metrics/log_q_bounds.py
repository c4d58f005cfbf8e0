"""Two-sided bounds on log q at q's own draws, for any q that gives mixing draws and a conditional density.

A reverse model tau(z | x) is fitted to the finished q by forward KL (max E_q log tau(z | x)), then
(Sobolev & Vetrov 2019, arXiv:1905.03290), with z_0 behind x, z_1..z_K ~ r(.|x) and w_k = q(x, z_k) / r(z_k|x),

    E log 1/K sum_{k=1..K} w_k  <=  E log q(x)  <=  E log 1/(K+1) sum_{k=0..K} w_k,

for the proposal r = (1 - share) tau + share q(z).  The share of the mixing distribution bounds every weight by
q(x|z) / share, so that a poor tau cannot make the interval (much) worse than SIVI's own at share * K draws.  Any r
gives valid bounds; a good one makes them narrow.  q with an exact density has equal ends.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass

import torch
from torch import Tensor

from bench.metrics.base import Fitted
from bench.metrics.pairs import pairs
from bench.noise import DirectNoise, derived_seed
from methods.base import Method
from methods.parts.bounds import lower, upper
from methods.parts.reverse import MixtureReverse, Reverse

NUMBERS_PER_CHUNK = 30_000_000
PAIRS = 4096
"""Least number of pairs (x, z) behind the linear part of the reverse model."""


@dataclass(frozen=True)
class Protocol:
    """How the bounds are made.

    Attributes:
        n: draws of x.
        inner: K.
        share: of the mixing distribution in the proposal.
        steps, batch, lr: Adam steps of the reverse model, pairs per step, initial rate (falls linearly to zero).
        width, components: two hidden layers of this width; Gaussians of the mixture.
    """

    n: int
    inner: int
    share: float
    steps: int
    batch: int
    lr: float
    width: int
    components: int


@dataclass(frozen=True)
class LogQ:
    """At n draws x of q: log p(x) (unnormalised) and one-draw values of the two ends of log q(x); float64, [n] each."""

    log_p: Tensor
    lower: Tensor
    upper: Tensor


def log_q_bounds(q: Fitted, protocol: Protocol) -> LogQ:
    """The bounds; kept in the cache of ``q``, so that all metrics of one protocol share them.

    Raises:
        Unsupported: q gives neither a density nor mixing draws.
    """
    key = ("log_q_bounds", *astuple(protocol))
    if key not in q.cache:
        q.cache[key] = _bounds(q, protocol)
    return q.cache[key]


@torch.no_grad()
def _bounds(q: Fitted, protocol: Protocol) -> LogQ:
    noise = q.noise("bounds")
    x = q.method.sample(2, q.noise("bounds probe"))
    if q.method.log_prob(x) is not None:
        x = q.method.sample(protocol.n, noise)
        exact = q.method.log_prob(x)
        assert exact is not None
        return LogQ(q.target.log_prob(x).double(), exact.double(), exact.double())
    x, z0 = pairs(q.method, protocol.n, noise)
    proposal = _proposal(q, protocol)
    rows = max(1, NUMBERS_PER_CHUNK // (protocol.inner * _numbers_per_weight(q.method, z0, protocol)))
    parts = [
        _one_chunk(q.method, proposal, x_part, z_part, protocol, noise)
        for x_part, z_part in zip(x.split(rows), z0.split(rows), strict=True)
    ]
    low, high = (torch.cat(ends) for ends in zip(*parts, strict=True))
    return LogQ(q.target.log_prob(x).double(), low, high)


def _numbers_per_weight(method: Method, z: Tensor, protocol: Protocol) -> int:
    """Floats that one weight needs at its widest: the mixture's components, or a layer of the conditional's network."""
    widest = max((max(p.shape, default=1) for p in method.parameters()), default=1)
    return max(widest, protocol.components * z.shape[1])


def _proposal(q: Fitted, protocol: Protocol) -> Reverse | None:
    """The fitted reverse model; None where z has no known density on R^k: draws then come from ``mixing`` alone."""
    x, z = pairs(q.method, max(PAIRS, 20 * q.target.dim), q.noise("bounds start"))
    if q.method.mixing_log_prob(z) is None or protocol.share == 1:
        return None
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(q.seed, "eval", "bounds init"))
        own = q.method.inverse()
        tau = MixtureReverse(x, z, (protocol.width,) * 2, protocol.components) if own is None else own
        return fit_reverse(tau, q, protocol)


def fit_reverse(tau: Reverse, q: Fitted, protocol: Protocol) -> Reverse:
    """max E_q log tau(z | x) on fresh pairs (x, z) of q in every step."""
    optimiser = torch.optim.Adam(tau.parameters(), protocol.lr, foreach=True)
    noise = q.noise("bounds fit")
    for step in range(protocol.steps):
        for group in optimiser.param_groups:
            group["lr"] = protocol.lr * (1 - step / protocol.steps)
        with torch.no_grad():
            x, z = pairs(q.method, protocol.batch, noise)
        optimiser.zero_grad()
        (-tau.log_prob(z.unsqueeze(1), x).mean()).backward()
        torch.nn.utils.clip_grad_norm_(tau.parameters(), 10.0 * math.sqrt(z.shape[1]))
        optimiser.step()
    return tau


def _one_chunk(
    method: Method, tau: Reverse | None, x: Tensor, z0: Tensor, protocol: Protocol, noise: DirectNoise
) -> tuple[Tensor, Tensor]:
    """Both ends at x [n, d]; -> two [n]."""
    z = method.mixing(len(x) * protocol.inner, noise)
    assert z is not None
    z = z.view(len(x), protocol.inner, -1)
    if tau is not None:
        # which of the K draws come from tau is itself random: r is a mixture, draw by draw
        from_mixing = noise.uniform(len(x), protocol.inner, 1) < protocol.share
        z = torch.where(from_mixing, z, tau.draw(x, protocol.inner, noise))
    log_w = _log_weight(method, tau, x, z, protocol.share)
    log_w0 = _log_weight(method, tau, x, z0.unsqueeze(1), protocol.share).squeeze(1)
    return lower(log_w), upper(log_w0, log_w)


def _log_weight(method: Method, tau: Reverse | None, x: Tensor, z: Tensor, share: float) -> Tensor:
    """log q(x|z) + log q(z) - log r(z|x), [n, K] in float64."""
    log_conditional = method.conditional(z).log_prob(x.unsqueeze(1)).double()
    if tau is None:
        return log_conditional
    log_mixing = method.mixing_log_prob(z)
    assert log_mixing is not None
    log_mixing = log_mixing.double()
    log_tau = tau.log_prob(z, x).double()
    return log_conditional + log_mixing - torch.logaddexp(math.log1p(-share) + log_tau, math.log(share) + log_mixing)
