"""What KPG, KPG-IS and amortised SVGD share: a Gaussian semi-implicit family whose draws follow a direction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from bench.checks import require_fraction, require_positive, require_share
from methods.base import Clock, Noise, Player
from methods.parts.families import GlobalVariance, SemiImplicitMethod
from methods.parts.optim import Adam, staircase
from methods.parts.repulsion import ConstantBandwidth
from targets.base import Target


class Directed(SemiImplicitMethod):
    """One player, Adam with step decay; subclasses write ``loss``, linear in the draws x_j that move.

    Args:
        target: needs a score.
        batch: N, draws of a batch.
        noise_dim: dimension of the mixing variable z.
        hidden: hidden layer sizes of mu.
        log_var: initial log variance of q(x | z).
        log_var_min: lower clamp of the log variance.
        bandwidth: rule for the median bandwidth, see ``methods.parts.kernels.Bandwidth``.
        lr, beta1, beta2: Adam.
        decay, decay_every: learning rate times decay every so many steps.
        anneal: the fraction of the run over which the target's score is annealed, as in ``ksivi``.
    """

    q: GlobalVariance
    needs = frozenset({"score"})
    cheap: ClassVar[dict[str, Any]] = {"batch": 32}

    def __init__(
        self,
        target: Target,
        *,
        batch: int = 500,
        noise_dim: int = 3,
        hidden: tuple[int, ...] = (50, 50),
        log_var: float = 0.0,
        log_var_min: float = -20.0,
        bandwidth: ConstantBandwidth = "detached",
        lr: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.99,
        decay: float = 0.9,
        decay_every: int = 1000,
        anneal: float = 0.0,
    ) -> None:
        super().__init__(target)
        require_positive(batch=batch, noise_dim=noise_dim, hidden=hidden, lr=lr, decay=decay, decay_every=decay_every)
        require_fraction(beta1=beta1, beta2=beta2)
        require_share(anneal=anneal)
        self.q = GlobalVariance(target.dim, noise_dim, tuple(hidden), log_var=log_var, log_var_min=log_var_min)
        self.batch, self.bandwidth, self.anneal = batch, bandwidth, anneal
        self.lr, self.betas, self.decay, self.decay_every = lr, (beta1, beta2), decay, decay_every

    def players(self) -> Sequence[Player]:
        adam, schedule = Adam(self.lr, self.betas), staircase(self.decay, self.decay_every)
        return [Player("q", ("q",), loss=self.loss, optimiser=adam, schedule=schedule)]

    def loss(self, noise: Noise, clock: Clock) -> Tensor:
        """Minus the mean of <direction at x_j, x_j>, the direction held constant."""
        raise NotImplementedError
