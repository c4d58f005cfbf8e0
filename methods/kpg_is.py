"""KPG-IS: KPG whose smoothed score difference is estimated by importance sampling with a learned proposal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bench.checks import require_not_negative, require_positive
from bench.errors import UserError
from bench.registry import register
from methods.base import Clock, Noise, Player
from methods.parts.directed import Directed
from methods.parts.families import anneal
from methods.parts.kpg_direction import dense, importance_backend
from methods.parts.kpg_fused import fused
from methods.parts.optim import Adam
from methods.parts.options import with_options_of
from methods.parts.proposal import MixtureProposal, slots
from targets.base import Target

CHUNK = 1 << 20
"""Largest number of activations per seed of one layer that are held at once by the direction in plain torch."""


@register(
    "method", "kpg_is", source="Pielok et al. 2025, arXiv:2506.05088; settings of the 2-D experiments of its code"
)
class KPGIS(Directed):
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
        proposal: hidden layer sizes of the network of m, s and alpha.
        alpha_min, alpha_max: bounds of alpha(x).
        bandwidth: as in ``methods.parts.directed``, over all N l distances; the other options are those listed there.
        lr_proposal: learning rate of the proposal (Adam with its usual decays, not scheduled).

    Raises:
        UserError: the bounds of alpha are not 0 < alpha_min < alpha_max < 1.
    """

    paper_name = "KPG-IS"
    cheap: ClassVar[dict[str, Any]] = {"batch": 32, "latents": 32, "proposal": (16,)}

    @with_options_of(Directed)
    def __init__(
        self,
        target: Target,
        *,
        latents: int = 500,
        own: int = 0,
        proposal: tuple[int, ...] = (50, 50, 50),
        alpha_min: float = 0.01,
        alpha_max: float = 0.9,
        lr_proposal: float = 1e-3,
        **options: object,
    ) -> None:
        super().__init__(target, **options)  # type: ignore[arg-type]
        require_positive(latents=latents, proposal=proposal, lr_proposal=lr_proposal)
        require_not_negative(own=own)
        if not 0 < alpha_min < alpha_max < 1:
            raise UserError(
                f"method.alpha_min={alpha_min} and method.alpha_max={alpha_max} are no bounds of a mixture's weight",
                "choose 0 < alpha_min < alpha_max < 1",
            )
        self.proposal = MixtureProposal(target.dim, self.q.noise_dim, tuple(proposal), alpha_min, alpha_max)
        self.latents, self.own, self.lr_proposal = latents, own, lr_proposal
        self.slots = own or slots(latents, alpha_min)
        widths = [layer.out_features for layer in self.q.mean if isinstance(layer, nn.Linear)]
        self.rows = max(1, CHUNK // (self.slots * max(self.q.noise_dim, *widths)))  # x_j per chunk

    def players(self) -> Sequence[Player]:
        proposal = Player("proposal", ("proposal",), loss=self.likelihood, optimiser=Adam(self.lr_proposal))
        return [*super().players(), proposal]

    def operations(self) -> dict[str, str]:
        return {"kpg_direction": importance_backend(self)}

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
        if importance_backend(self) == "fused":
            return fused(self, factor, x, moments, prior, u, draws)
        return dense(self, p, factor, x, moments, prior, u, draws)
