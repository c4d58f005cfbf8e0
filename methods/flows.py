"""Normalizing flows by reverse KL, built on zuko."""

from __future__ import annotations

from collections.abc import Sequence

import zuko
from torch import Tensor
from zuko.flows import Flow

from bench.registry import register
from methods.base import Clock, Method, Noise, Player, require_positive
from methods.optim import Adam, Schedule, staircase
from targets.base import Target


class FlowMethod(Method):
    """An explicit flow q fitted by the reparameterised reverse KL; subclasses build ``self.flow``."""

    flow: Flow
    batch: int
    lr: float
    schedule: Schedule
    clip: float | None

    def players(self) -> Sequence[Player]:
        return [Player("q", ("flow",), loss=self.loss, optimiser=Adam(self.lr), schedule=self.schedule, clip=self.clip)]

    def loss(self, noise: Noise, clock: Clock) -> Tensor:
        """E[log q(x) - log p(x)], log q from the forward pass."""
        x, log_q = self._push(noise.normal(self.batch, self.target.dim))
        return (log_q - self.target.log_prob(x)).mean()

    def _push(self, eps: Tensor) -> tuple[Tensor, Tensor]:
        """Base noise [n, d] -> x [n, d] and log q(x) [n].

        zuko's own ``rsample_and_log_prob`` draws from the global generator; the noise is an input here.
        """
        q = self.flow()
        x, log_det = q.transform.inv.call_and_ladj(eps)
        return x, q.base.log_prob(eps) - log_det

    def sample(self, n: int, noise: Noise) -> Tensor:
        return self._push(noise.normal(n, self.target.dim))[0]

    def log_prob(self, x: Tensor) -> Tensor:
        """Exact log q(x), [..., d] -> [...]."""
        return self.flow().log_prob(x)


@register("method", "iaf", source="Kingma et al. 2016, arXiv:1606.04934; zuko's masked autoregressive networks")
class IAF(FlowMethod):
    """Inverse autoregressive flow by reverse KL: sampling in one pass, density at a foreign point in d passes.

    Args:
        transforms: autoregressive steps; the order is reversed between them.
        hidden: widths of each step's masked network.
        batch, lr, decay, decay_every, clip: draws per step, Adam, staircase decay, gradient-norm bound.
    """

    paper_name = "IAF"

    def __init__(
        self,
        target: Target,
        *,
        transforms: int = 4,
        hidden: tuple[int, ...] = (64, 64),
        batch: int = 128,
        lr: float = 1e-3,
        decay: float = 0.9,
        decay_every: int = 1000,
        clip: float = 10.0,
    ) -> None:
        super().__init__(target)
        require_positive(transforms=transforms, hidden=hidden, batch=batch, lr=lr, decay_every=decay_every, clip=clip)
        forward = zuko.flows.MAF(target.dim, transforms=transforms, hidden_features=tuple(hidden))
        # zuko names no IAF: it is the inverse of a MAF, step by step in reverse order
        inverse = [zuko.lazy.LazyInverse(step) for step in reversed(forward.transform.transforms)]
        self.flow = Flow(inverse, forward.base)
        self.batch, self.lr, self.clip = batch, lr, clip
        self.schedule = staircase(decay, decay_every)
