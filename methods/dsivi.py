"""DSIVI: semi-implicit VI for models whose prior is semi-implicit as well."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from bench.checks import require_not_negative
from bench.registry import register
from methods.base import Clock, Noise
from methods.parts.families import GlobalVariance
from methods.sivi import SIVI
from targets.base import Target
from targets.scale_prior import SemiImplicitPrior


@register(
    "method", "dsivi", source="Molchanov et al., AISTATS 2019, arXiv:1810.02789; network as for sivi on the 2-D toys"
)
class DSIVI(SIVI):
    """Doubly semi-implicit VI: SIVI's bound on log q and an importance-weighted one on the log prior.

    L = E log p(data|x) + E log 1/K2 sum_{k=1..K2} p(x|zeta_k) - E log 1/(K1+1) sum_{k=0..K1} q(x|z_k) rises with K1 and
    K2 to the ELBO.  zeta_1..K2 ~ p(zeta) are shared by the draws of x, as z_1..K1 are.  On a target without a
    semi-implicit prior, and for K2 = 0, log p(x) is exact and the method is SIVI.

    Args:
        outer: draws of x per step.
        auxiliary: K1.
        prior_draws: K2; 0 takes the closed-form marginal prior.
        noise_dim, hidden, activation: mixing noise and network of the mean.
        log_var, learn_var: initial log sigma^2 of q(x|z), and whether it is trained.
        lr, decay, decay_every: Adam; the rate times decay ** (step / decay_every).
    """

    q: GlobalVariance
    paper_name = "DSIVI"
    added = {}
    phases = ()
    cheap = {"outer": 32, "auxiliary": 16, "hidden": (20,), "lr": 5e-3}

    def __init__(
        self,
        target: Target,
        *,
        outer: int = 100,
        auxiliary: int = 50,
        prior_draws: int = 50,
        noise_dim: int = 3,
        hidden: tuple[int, ...] = (50, 50),
        activation: Literal["relu", "tanh"] = "relu",
        log_var: float = math.log(0.25),
        learn_var: bool = True,
        lr: float = 1e-3,
        decay: float = 0.9,
        decay_every: int = 1000,
    ) -> None:
        super().__init__(
            target,
            outer=outer,
            auxiliary=auxiliary,
            noise_dim=noise_dim,
            hidden=hidden,
            activation=activation,
            log_var=log_var,
            learn_var=learn_var,
            lr=lr,
            decay=decay,
            decay_every=decay_every,
        )
        require_not_negative(prior_draws=prior_draws)
        self.prior_draws = prior_draws

    def loss(self, noise: Noise, clock: Clock) -> Tensor:
        """-L_{K1,K2}."""
        x, log_q = self.bound(self.outer, self.auxiliary, noise)
        return (log_q - self.log_joint(x, noise)).mean()

    def log_joint(self, x: Tensor, noise: Noise) -> Tensor:
        """log p(data|x) plus the bound on log p(x), [J, d] -> [J]; exact without a semi-implicit prior or at K2 = 0."""
        p = self.target.subsample(noise)
        if self.prior_draws == 0 or not isinstance(p, SemiImplicitPrior):
            return p.log_prob(x)
        log_prior = p.prior_conditional(x, p.prior_mixing(self.prior_draws, noise))
        return p.data_log_prob(x) + torch.logsumexp(log_prior, dim=1) - math.log(self.prior_draws)
