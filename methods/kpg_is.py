"""KPG-IS: KPG whose smoothed score difference is estimated by importance sampling with a learned proposal."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from bench.errors import UserError
from bench.registry import register
from methods import kernels
from methods.base import Clock, Noise, Player, require_fraction, require_not_negative, require_positive
from methods.families import SemiImplicit, SemiImplicitMethod, anneal
from methods.kpg import ConstantBandwidth
from methods.optim import Adam, staircase
from methods.proposal import MixtureProposal, prior_over_mixture, slots
from targets.base import Target

CHUNK = 1 << 20
"""Largest number of activations per seed of one layer that are held at once: x_j is worked through in chunks."""


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

    Everything but the x_j that moves is constant, and shapes are static: each x_j gets as many Gaussian draws as it
    could need (``methods.proposal.slots``; 14 of 100 for alpha >= .99) and masks those it does not use.

    Args:
        target: needs a score; l + N slots(l) evaluations per step (l + N own if stratified).
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
        require_fraction(beta1=beta1, beta2=beta2, anneal=anneal)
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
        N, l, c = len(x), self.latents, self.slots
        p, a = self.target.subsample(noise), anneal(clock, self.anneal)
        m, s, alpha = self.proposal(x)
        log_s = s.log().sum(-1, keepdim=True)

        def difference(z: Tensor, xi: Tensor) -> tuple[Tensor, Tensor]:
            """x' and s_c - s_p there, for rows z [n, ..., k]."""
            y, u = self.q(z, xi)
            return y, -(u + a * p.score(y))

        z = noise.normal(l, self.q.noise_dim)  # from the prior, shared by all x_j
        y, f = difference(z, noise.normal(l, self.q.dim))
        D = kernels.statistic("gaussian", x, y)
        ratio = prior_over_mixture(0.5 * (squares(z) - whitened(z, m, s)) - log_s, alpha)
        from_prior = noise.uniform(N, l) < alpha if self.own == 0 else None

        eps, xi = noise.normal(N, c, self.q.noise_dim), noise.normal(N, c, self.q.dim)
        z = m.unsqueeze(1) + s.unsqueeze(1) * eps  # from the Gaussian, each x_j its own
        own_y, own_f = in_chunks(difference, self.rows, z, xi)
        own_D = squares(x.unsqueeze(1) - own_y)
        own_ratio = prior_over_mixture(0.5 * (squares(z) - squares(eps)) - log_s, alpha)

        if from_prior is None:
            share, own_share = alpha / l, (1 - alpha) / c
            distances = torch.cat([D, own_D], dim=1)
        else:
            used, at_index = own_draws(from_prior, own_D)
            share, own_share = from_prior / l, used / l
            distances = torch.where(from_prior, D, at_index)
        scale = math.log(l + 1) / kernels.median(distances, self.bandwidth)
        w = torch.exp(-scale * D) * ratio * share
        own_w = torch.exp(-scale * own_D) * own_ratio * own_share
        return w @ f + (own_w.unsqueeze(-1) * own_f).sum(-2)


def in_chunks(
    function: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], rows: int, a: Tensor, b: Tensor
) -> tuple[Tensor, Tensor]:
    """``function(a, b)`` for ``rows`` rows at a time: bounds the memory of what it computes on the way."""
    parts = [function(a[i : i + rows], b[i : i + rows]) for i in range(0, len(a), rows)]
    first, second = zip(*parts, strict=True)
    return torch.cat(first), torch.cat(second)


def own_draws(from_prior: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Which of each row's c Gaussian draws are used, [N, c], and ``values`` [N, c] of the draw at each index i, [N, l].

    The t-th index of a row that is not from the prior takes the row's t-th draw; with as many draws as indices each
    index has its own.  Entries at indices from the prior are meaningless.
    """
    l, c = from_prior.shape[-1], values.shape[-1]
    if c == l:
        return ~from_prior, values
    rank = (~from_prior).cumsum(-1)
    used = torch.arange(c, device=values.device) < rank[..., -1:]
    return used, values.gather(-1, (rank - 1).clamp(0, c - 1))


def squares(v: Tensor) -> Tensor:
    """|v|^2 over the last dimension; coordinate by coordinate where there are few: a sum over 2 or 3 is slow."""
    if v.shape[-1] > 4:
        return v.square().sum(-1)
    total = v[..., 0].square()
    for i in range(1, v.shape[-1]):
        total = total + v[..., i].square()
    return total


def whitened(z: Tensor, m: Tensor, s: Tensor) -> Tensor:
    """|(z_i - m_j) / s_j|^2 for all pairs; z [l, k], m and s [N, k] -> [N, l]."""
    if z.shape[-1] > 4:
        return ((z - m.unsqueeze(-2)) / s.unsqueeze(-2)).square().sum(-1)
    r = 1 / s
    total = ((z[:, 0] - m[:, :1]) * r[:, :1]).square()
    for i in range(1, z.shape[-1]):
        total = total + ((z[:, i] - m[:, i : i + 1]) * r[:, i : i + 1]).square()
    return total
