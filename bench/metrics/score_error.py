"""How well a method estimates grad log q: its own estimator on the frozen q, against a long Markov chain."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from bench.metrics.base import Fitted, Metric, Value
from bench.metrics.pairs import pairs
from bench.registry import register
from methods.base import Method, Noise
from methods.parts import hmc
from targets.base import Target, Unsupported

Estimator = Callable[[Tensor, Tensor, Noise], Tensor]
"""Estimate of grad log q at x [n, d] that may use the z [n, k] each x was drawn from."""


def conditional_score(method: Method, x: Tensor, z: Tensor) -> Tensor:
    """grad_x log q(x | z) of a diagonal Gaussian conditional; [..., d]."""
    base = _gaussian(method.conditional(z))
    return (base.loc - x) / base.scale.square()


def prior_draws_score(method: Method, inner: int) -> Estimator:
    """SIVI's estimate: grad_x log of the mean of q(x | z_i) over the generating z and ``inner`` draws of the prior."""

    def estimate(x: Tensor, z: Tensor, noise: Noise) -> Tensor:
        drawn = method.mixing(inner, noise)
        assert drawn is not None
        both = torch.cat([z[:, None, :], drawn.expand(len(z), *drawn.shape)], 1)  # [n, 1 + inner, k]
        conditional = method.conditional(both)
        weights = torch.softmax(conditional.log_prob(x[:, None, :]), 1)
        base = _gaussian(conditional)
        return (weights[..., None] * (base.loc - x[:, None, :]) / base.scale.square()).sum(1)

    return estimate


def chain_score(
    method: Method, x: Tensor, z: Tensor, noise: Noise, *, burn_in: int, samples: int, leapfrog: int
) -> tuple[Tensor, Tensor]:
    """grad log q(x) = E_{q(z'|x)} grad_x log q(x | z') by HMC that starts at the generating z, hence in equilibrium.

    Returns:
        The averages over the two halves of the ``samples`` transitions, [n, d] each.
    """

    def reverse(z: Tensor) -> Tensor:
        log_mixing = method.mixing_log_prob(z)
        assert log_mixing is not None
        return log_mixing + method.conditional(z).log_prob(x)

    step = torch.full((len(z), 1), 0.1, dtype=z.dtype, device=z.device)
    chain = hmc.start(reverse, z)
    for _ in range(burn_in):
        chain, accept = hmc.transition(reverse, chain, step, noise, leapfrog)
        step = step * torch.exp(0.1 * (accept[:, None] - 0.8))
    halves = [torch.zeros_like(x), torch.zeros_like(x)]
    for i in range(samples):
        chain, _ = hmc.transition(reverse, chain, step, noise, leapfrog)
        halves[2 * i // samples] += conditional_score(method, x, chain.z)
    first = (samples + 1) // 2
    return halves[0] / first, halves[1] / (samples - first)


def _gaussian(conditional: Distribution) -> Normal:
    if isinstance(conditional, Independent) and isinstance(conditional.base_dist, Normal):
        return conditional.base_dist
    raise Unsupported("q(x | z) is not a diagonal Gaussian")


@register("metric", "score_error", source="definition of this suite; the identity is UIVI's, arXiv:1808.02078, eq. 9")
class ScoreError(Metric):
    """Mean of |estimated grad log q(x) - grad log q(x)|^2 over draws x of the frozen q: estimator quality alone.

    The estimator is the method's own (``mixture_score(x, z, noise)``), or for methods without one SIVI's over ``inner``
    draws of the prior (so for KPG-IS, which estimates a smoothed difference of scores); the protocol says which.  The
    truth is an average over long HMC chains on q(z | x) that start at the z which made x; where q(z | x) has separate
    modes a chain stays in its own, and the truth is off.
    The floor is the truth's own error, from the difference of the two halves of its chains.

    Args:
        n: draws of q.
        inner: prior draws of the fallback estimator.
        burn_in: transitions that only adapt the step size (towards an acceptance of .8, per chain).
        samples: transitions averaged.
        leapfrog: leapfrog steps of a transition.
    """

    def __init__(
        self, *, n: int = 500, inner: int = 100, burn_in: int = 200, samples: int = 1000, leapfrog: int = 5
    ) -> None:
        self.n, self.inner, self.burn_in, self.samples, self.leapfrog = n, inner, burn_in, samples, leapfrog

    unit: ClassVar[str] = "squared units of 1/x"

    def applies(self, method: Method, target: Target) -> str | None:
        if type(method).mixing is Method.mixing or type(method).mixing_log_prob is Method.mixing_log_prob:
            return "q has no mixing distribution with a density"
        return None

    def __call__(self, q: Fitted) -> Value:
        method = q.method
        x, z = pairs(method, self.n, q.noise("score pairs"))
        z, x = z.detach(), x.detach()
        halves = chain_score(
            method, x, z, q.noise("score chains"), burn_in=self.burn_in, samples=self.samples, leapfrog=self.leapfrog
        )
        own = method.mixture_score(x, z, q.noise("score estimate"))
        prior = prior_draws_score(method, self.inner)
        estimate = (prior(x, z, q.noise("score estimate")) if own is None else own).detach()
        truth = ((halves[0] + halves[1]) / 2).detach()
        error = (estimate - truth).square().sum(1).mean()
        floor = ((halves[0] - halves[1]) / 2).square().sum(1).mean()
        return Value(float(error), float(floor), against={"estimator": "prior draws" if own is None else "own"})
