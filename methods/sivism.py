"""SIVI-SM: semi-implicit VI by score matching, a minimax game between q and a critic."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bench.registry import register
from methods.base import Clock, Noise, Player, require_fraction, require_positive
from methods.families import SemiImplicit, SemiImplicitMethod, anneal, mlp
from methods.optim import Adam, staircase
from targets.base import Target


@register(
    "method", "sivism", source="Yu & Zhang, ICLR 2023, arXiv:2308.10014; settings of the 2-D configurations of its code"
)
class SIVISM(SemiImplicitMethod):
    """Semi-implicit VI by the Fisher divergence in its minimax form (SIVI-SM).

    min_phi max_psi E_{q(x,z)}[2 f_psi(x)^T (s_p(x) - s_c(x|z)) - |f_psi(x)|^2]; the best critic is s_p - s_q.
    Each iteration: one step of q, then ``critic_steps`` steps of the critic, every step on a fresh batch.

    Args:
        batch: draws per step, one conditional noise per z.
        noise_dim, hidden: mixing noise and network of the mean (ReLU).
        critic: hidden widths of the critic.
        log_var, log_var_min: initial value and lower clamp of log sigma^2.
        lr, lr_critic, beta1, beta2: Adam.
        decay, decay_every: both learning rates times decay every so many steps.
        anneal: the score of p is multiplied by min(1, 0.1 + t / W), W = anneal * iterations; 0 = no annealing.
    """

    paper_name = "SIVI-SM"
    needs = frozenset({"score"})

    def __init__(
        self,
        target: Target,
        *,
        batch: int = 500,
        noise_dim: int = 3,
        hidden: tuple[int, ...] = (50, 50),
        critic: tuple[int, ...] = (128, 128),
        log_var: float = 0.0,
        log_var_min: float = -6.0,
        lr: float = 1e-3,
        lr_critic: float = 2e-3,
        beta1: float = 0.9,
        beta2: float = 0.99,
        decay: float = 0.9,
        decay_every: int = 1000,
        critic_steps: int = 1,
        anneal: float = 0.0,
    ) -> None:
        super().__init__(target)
        require_positive(batch=batch, noise_dim=noise_dim, hidden=hidden, lr=lr, decay=decay, decay_every=decay_every)
        require_positive(critic=critic, lr_critic=lr_critic, critic_steps=critic_steps)
        require_fraction(beta1=beta1, beta2=beta2, anneal=anneal)
        self.q = SemiImplicit(
            target.dim, noise_dim=noise_dim, hidden=tuple(hidden), log_var=log_var, log_var_min=log_var_min
        )
        self.critic = mlp(target.dim, tuple(critic), target.dim, "relu")
        self.batch, self.critic_steps, self.anneal = batch, critic_steps, anneal
        self.lr, self.lr_critic, self.betas = lr, lr_critic, (beta1, beta2)
        self.schedule = staircase(decay, decay_every)

    def players(self) -> Sequence[Player]:
        return [
            Player("q", ("q",), loss=self.fisher, optimiser=Adam(self.lr, self.betas), schedule=self.schedule),
            Player(
                "critic",
                ("critic",),
                loss=self.regression,
                optimiser=Adam(self.lr_critic, self.betas),
                schedule=self.schedule,
                steps=self.critic_steps,
            ),
        ]

    def f(self, x: Tensor, score: Tensor, clock: Clock) -> Tensor:
        """The inner function f_psi at x [N, d], where the annealed score of p is ``score`` [N, d]."""
        out: Tensor = self.critic(x)
        return out

    def fisher(self, noise: Noise, clock: Clock) -> Tensor:
        """The game's value as a function of q; the gradient flows through x in the critic and in both scores."""
        x, minus_s_c = self.q.draw(self.batch, noise)
        score = anneal(clock, self.anneal) * self.target.score(x)
        f = self.f(x, score, clock)
        return (2 * (f * (score + minus_s_c)).sum(-1) - f.square().sum(-1)).mean()

    def regression(self, noise: Noise, clock: Clock) -> Tensor:
        """Minus the game's value as a function of the critic (its q part is a constant here)."""
        return -self.fisher(noise, clock)


@register(
    "method", "sivism_trick", source="Yu & Zhang, ICLR 2023: code of its logistic-regression experiments (TransTrick)"
)
class SIVISMTrick(SIVISM):
    """SIVI-SM with the code's "TransTrick": the inner function is f_psi(x) + c_t s_p(x), with c_t decaying from 1.

    Early in training the critic then has to model -s_q only.  It is not in the paper's objective, but without it the
    game runs away on logistic regression.  c_t = 1.004 ** -floor(t / 100): divided by 1.004 after each 100 steps.
    """

    def f(self, x: Tensor, score: Tensor, clock: Clock) -> Tensor:
        """f_psi(x) + c_t s_p(x)."""
        return self.critic(x) + torch.pow(1.004, -torch.floor(clock.step / 100)) * score
