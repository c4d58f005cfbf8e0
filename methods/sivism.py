"""SIVI-SM: semi-implicit VI by score matching, a minimax game between q and a critic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from bench.checks import require_fraction, require_not_negative, require_positive, require_share
from bench.registry import register
from methods.base import Clock, Noise, Player
from methods.parts.families import GlobalVariance, SemiImplicitMethod, anneal, mlp
from methods.parts.optim import Adam, Optimiser, RMSprop, staircase
from methods.parts.options import refuse_unused, with_options_of
from methods.parts.relu_mlp import mlp_backend, relu_mlp
from methods.parts.warm_start import warm_start
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
        critic_steps: steps of the critic per step of q, each on a fresh batch.
        anneal: the score of p is multiplied by min(1, 0.1 + t / W), W = anneal * iterations; 0 = no annealing.
        optimiser: ``rmsprop`` (alpha 0.9, ``rms_eps``) for both networks is the code's choice for multinomial
            regression, which has no betas.
        rms_eps: epsilon of RMSprop; 1 in the code, which makes the steps nearly those of plain descent.
        beta2_critic: Adam's second decay for the critic; None: ``beta2``.
        warm_start, warm_lr: steps on the target's ``dev_loss`` and their learning rate (99 on bnn_boston).
        critic_warm, critic_warm_lr: steps of the critic alone after the warm start (100 on bnn_boston).  Both kinds
            count as iterations of the run, and ``anneal`` is a fraction of them all.
    """

    paper_name = "SIVI-SM"
    q: GlobalVariance
    needs = frozenset({"score"})
    phases = ("warm_start", "critic_warm")
    cheap = {"batch": 32}
    added = {
        "optimiser": "adam",
        "rms_eps": 1.0,
        "beta2_critic": None,
        "warm_start": 0,
        "warm_lr": 1e-2,
        "critic_warm": 0,
        "critic_warm_lr": 1e-3,
    }

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
        optimiser: Literal["adam", "rmsprop"] = "adam",
        rms_eps: float = 1.0,
        beta2_critic: float | None = None,
        warm_start: int = 0,
        warm_lr: float = 1e-2,
        critic_warm: int = 0,
        critic_warm_lr: float = 1e-3,
    ) -> None:
        super().__init__(target)
        require_positive(batch=batch, noise_dim=noise_dim, hidden=hidden, lr=lr, decay=decay, decay_every=decay_every)
        require_positive(critic=critic, lr_critic=lr_critic, critic_steps=critic_steps, rms_eps=rms_eps)
        require_positive(warm_lr=warm_lr, critic_warm_lr=critic_warm_lr)
        require_not_negative(warm_start=warm_start, critic_warm=critic_warm)
        if optimiser == "adam":
            refuse_unused(self, "optimiser=adam", rms_eps=rms_eps)
        else:
            refuse_unused(self, "optimiser=rmsprop", beta1=beta1, beta2=beta2, beta2_critic=beta2_critic)
        if warm_start == 0:
            refuse_unused(self, "warm_start=0", warm_lr=warm_lr)
        if critic_warm == 0:
            refuse_unused(self, "critic_warm=0", critic_warm_lr=critic_warm_lr)
        beta2_critic = beta2 if beta2_critic is None else beta2_critic
        require_fraction(beta1=beta1, beta2=beta2, beta2_critic=beta2_critic)
        require_share(anneal=anneal)
        self.q = GlobalVariance(
            target.dim, noise_dim=noise_dim, hidden=tuple(hidden), log_var=log_var, log_var_min=log_var_min
        )
        self.critic = mlp(target.dim, tuple(critic), target.dim, "relu")
        self.batch, self.critic_steps, self.anneal = batch, critic_steps, anneal
        self.lr, self.lr_critic = lr, lr_critic
        self.betas, self.betas_critic = (beta1, beta2), (beta1, beta2_critic)
        self.optimiser, self.rms_eps = optimiser, rms_eps
        self.warm_start, self.warm_lr = warm_start, warm_lr
        self.critic_warm, self.critic_warm_lr = critic_warm, critic_warm_lr
        self.schedule = staircase(decay, decay_every)

    def operations(self) -> dict[str, str]:
        parameter = next(self.parameters())
        return {"relu_mlp": mlp_backend(parameter.device, parameter.dtype)}

    def players(self) -> Sequence[Player]:
        start = self.warm_start + self.critic_warm
        before = warm_start(
            self,
            lambda noise: self.q.draw(self.batch, noise)[0],
            ("q",),
            steps=self.warm_start,
            lr=self.warm_lr,
            averaged=False,
        )
        if self.critic_warm > 0:
            alone = Adam(self.critic_warm_lr, self.betas_critic)
            before.append(
                Player(
                    "critic_warm",
                    ("critic",),
                    loss=self.regression,
                    optimiser=alone,
                    start=self.warm_start,
                    until=start,
                )
            )
        return [
            *before,
            Player(
                "q",
                ("q",),
                loss=self.fisher,
                optimiser=self._optimiser(self.lr, self.betas),
                schedule=self.schedule,
                start=start,
            ),
            Player(
                "critic",
                ("critic",),
                loss=self.regression,
                optimiser=self._optimiser(self.lr_critic, self.betas_critic),
                schedule=self.schedule,
                steps=self.critic_steps,
                start=start,
            ),
        ]

    def _optimiser(self, lr: float, betas: tuple[float, float]) -> Optimiser:
        return Adam(lr, betas) if self.optimiser == "adam" else RMSprop(lr, 0.9, self.rms_eps)

    def f(self, x: Tensor, score: Tensor, clock: Clock) -> Tensor:
        """The inner function f_psi at x [N, d], where the annealed score of p is ``score`` [N, d]."""
        return relu_mlp(self.critic, x)

    def fisher(self, noise: Noise, clock: Clock) -> Tensor:
        """The game's value as a function of q; the gradient flows through x in the critic and in both scores."""
        p = self.target.subsample(noise)
        z, xi = self.q.mixing(self.batch, noise), noise.normal(self.batch, self.q.dim)
        x, minus_s_c = self.q.around(relu_mlp(self.q.mean, z), xi)
        score = anneal(clock, self.anneal) * p.score(x)
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
    game runs away on logistic regression.  c_t = rate ** -floor(t / every).

    Args:
        trick_rate: c_t is divided by it ...
        trick_every: ... after each so many steps, one epoch in the code: 1.004 per 100 on logistic regression, 1.004
            per 30 on mlr_mnist, 1.005 per 9 on mlr_hapt; 1 keeps c_t = 1 (the comparison in PVI, arXiv:2407.00649).
    """

    added = {**SIVISM.added, "trick_rate": 1.004, "trick_every": 100}

    @with_options_of(SIVISM)
    def __init__(self, target: Target, *, trick_rate: float = 1.004, trick_every: int = 100, **options: object) -> None:
        super().__init__(target, **options)  # type: ignore[arg-type]
        require_positive(trick_rate=trick_rate, trick_every=trick_every)
        self.trick_rate, self.trick_every = trick_rate, trick_every

    def f(self, x: Tensor, score: Tensor, clock: Clock) -> Tensor:
        """f_psi(x) + c_t s_p(x)."""
        t = clock.step - self.warm_start - self.critic_warm
        c = torch.pow(self.trick_rate, -torch.floor(t / self.trick_every).clamp(min=0))
        return super().f(x, score, clock) + c * score
