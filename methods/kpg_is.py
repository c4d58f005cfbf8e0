"""KPG-IS: KPG whose smoothed score difference is estimated by importance sampling with a learned proposal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from bench.checks import require_fraction, require_not_negative, require_positive, require_share
from bench.errors import UserError
from bench.registry import register
from methods.base import Clock, Noise, Player
from methods.parts.families import SemiImplicit, SemiImplicitMethod, anneal
from methods.parts.kpg_direction import dense, direction_backend
from methods.parts.kpg_fused import fused
from methods.parts.optim import Adam, staircase
from methods.parts.proposal import MixtureProposal, slots
from methods.parts.repulsion import ConstantBandwidth
from targets.base import Target

CHUNK = 1 << 20
"""Largest number of activations per seed of one layer that are held at once by the direction in plain torch."""


@register(
    "method", "kpg_is", source="Pielok et al. 2025, arXiv:2506.05088; settings of the 2-D experiments of its code"
)
class KPGIS(SemiImplicitMethod):
    """Kernel path gradient with importance sampling: for each x_j, latents near those that could have made it.

        z'_ji ~ tau(z' | x_j) = alpha q(z') + (1 - alpha) N(m, s^2),   x'_ji ~ q(x' | z'_ji)
        w_ji = k(x_j, x'_ji) q(z'_ji) / tau(z'_ji | x_j),   Delta(x_j) = (1/l) sum_i w_ji (s_c - s_p)(x'_ji)

    The weights are not normalised by their sum.  The draws from the prior are shared by all x_j.  tau maximises
    E log tau(z | x) over fresh pairs, one step per iteration.

    With ``own`` > 0 the mixture is stratified instead of drawn: every x_j uses all l draws from the prior, with weight
    alpha, and ``own`` draws of its Gaussian, with weight 1 - alpha.  Same mean, less variance per draw, and N own
    instead of up to N l evaluations; the bandwidth's median is that of the pooled distances.  Not in the paper.

    Everything but the x_j that moves is constant, so the direction is one operation without gradients
    (``methods.parts.kpg_direction``).  Shapes are static: each x_j gets as many Gaussian draws as it could need
    (``methods.parts.proposal.slots``; 14 of 100 for alpha >= .99) and leaves those it does not use.

    Args:
        target: needs a score; at most l + N slots(l) evaluations per step (l + N own if stratified).
        batch: N, points x_j per step.
        latents: l, latents per x_j.
        own: draws of its own Gaussian per x_j (stratified); 0: the paper's estimator.
        noise_dim, hidden, log_var, log_var_min: the family, as in ``kpg``.
        proposal: hidden layer sizes of the network of m, s and alpha.
        alpha_min, alpha_max: bounds of alpha(x).
        bandwidth: rule for the median bandwidth of the Gaussian kernel, over all N l distances.
        lr, beta1, beta2: Adam of q.
        lr_proposal: learning rate of the proposal (Adam with its usual decays, not scheduled).
        decay, decay_every: learning rate of q times decay every so many steps.
        anneal: the fraction of the run over which the target's score is annealed, as in ``ksivi``.

    Raises:
        UserError: the bounds of alpha are not 0 < alpha_min < alpha_max < 1.
    """

    paper_name = "KPG-IS"
    needs = frozenset({"score"})
    cheap: ClassVar[dict[str, Any]] = {"batch": 32, "latents": 32, "proposal": (16,)}

    def __init__(
        self,
        target: Target,
        *,
        batch: int = 500,
        latents: int = 500,
        own: int = 0,
        noise_dim: int = 3,
        hidden: tuple[int, ...] = (50, 50),
        log_var: float = 0.0,
        log_var_min: float = -20.0,
        proposal: tuple[int, ...] = (50, 50, 50),
        alpha_min: float = 0.01,
        alpha_max: float = 0.9,
        bandwidth: ConstantBandwidth = "detached",
        lr: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.99,
        lr_proposal: float = 1e-3,
        decay: float = 0.9,
        decay_every: int = 1000,
        anneal: float = 0.0,
    ) -> None:
        super().__init__(target)
        require_positive(batch=batch, noise_dim=noise_dim, hidden=hidden, lr=lr, decay=decay, decay_every=decay_every)
        require_positive(latents=latents, proposal=proposal, lr_proposal=lr_proposal)
        require_fraction(beta1=beta1, beta2=beta2)
        require_share(anneal=anneal)
        require_not_negative(own=own)
        if not 0 < alpha_min < alpha_max < 1:
            raise UserError(
                f"method.alpha_min={alpha_min} and method.alpha_max={alpha_max} are no bounds of a mixture's weight",
                "choose 0 < alpha_min < alpha_max < 1",
            )
        self.q = SemiImplicit(target.dim, noise_dim, tuple(hidden), log_var=log_var, log_var_min=log_var_min)
        self.proposal = MixtureProposal(target.dim, noise_dim, tuple(proposal), alpha_min, alpha_max)
        self.batch, self.latents, self.own = batch, latents, own
        self.slots = own or slots(latents, alpha_min)
        self.rows = max(1, CHUNK // (self.slots * max(target.dim, *hidden, noise_dim)))  # x_j per chunk
        self.bandwidth, self.anneal = bandwidth, anneal
        self.lr, self.betas, self.lr_proposal = lr, (beta1, beta2), lr_proposal
        self.schedule = staircase(decay, decay_every)

    def players(self) -> Sequence[Player]:
        adam = Adam(self.lr, self.betas)
        return [
            Player("q", ("q",), loss=self.loss, optimiser=adam, schedule=self.schedule),
            Player("proposal", ("proposal",), loss=self.likelihood, optimiser=Adam(self.lr_proposal)),
        ]

    def operations(self) -> dict[str, str]:
        return {"kpg_direction": direction_backend(self)}

    def likelihood(self, noise: Noise, clock: Clock) -> Tensor:
        """-E log tau(z | x) over pairs (z, x) of q (forward KL to q(z | x))."""
        z, xi = noise.normal(self.batch, self.q.noise_dim), noise.normal(self.batch, self.q.dim)
        return -self.proposal.log_prob(z, self.q(z, xi)[0].detach()).mean()

    def loss(self, noise: Noise, clock: Clock) -> Tensor:
        """mean_j <Delta(x_j), x_j> with Delta held constant."""
        x, _ = self.q.draw(self.batch, noise)
        with torch.no_grad():
            delta = self.delta(x.detach(), noise, clock)
        return (delta.detach() * x).sum(-1).mean()

    def delta(self, x: Tensor, noise: Noise, clock: Clock) -> Tensor:
        """Estimate of Delta_k at x [N, d] -> [N, d]."""
        N, k, d = len(x), self.q.noise_dim, self.q.dim
        p, factor = self.target.subsample(noise), anneal(clock, self.anneal)
        prior = noise.normal(self.latents, k), noise.normal(self.latents, d)  # z and xi, shared by all x_j
        u = noise.uniform(N, self.latents) if self.own == 0 else None
        draws = noise.normal(N, self.slots, k), noise.normal(N, self.slots, d)
        moments = self.proposal(x)
        if direction_backend(self) == "fused":
            return fused(self, factor, x, moments, prior, u, draws)
        return dense(self, p, factor, x, moments, prior, u, draws)
