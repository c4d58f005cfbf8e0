"""EMD: one-layer distillation by maximum likelihood, with short Langevin runs as the E-step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from bench.checks import require_not_negative, require_positive
from bench.registry import register
from methods.base import Clock, Noise, Player
from methods.diffusion.generator import Generator, LevelWeight, level_weight
from methods.parts.options import with_options_of
from targets.base import Target


@register(
    "method",
    "emd",
    source="Xie et al., NeurIPS 2024, arXiv:2405.16852, from its algebra; step sizes and rates of this suite",
)
class EMD(Generator):
    """EM distillation: maximises E_{x ~ p_s} log q_s(x) over levels s; data-free.

    E-step, approximate: K Langevin steps on (eps, z), from a draw of the student, towards
    rho(eps, z) = p_s(x) / q_s(x) N(eps; 0, I) N(z; 0, I) with x = alpha_s G(z) + sigma_s eps.  M-step: ascend
    log N(x; alpha_s G(z), sigma_s^2 I) at the end of the run, after noise cancellation: what the initial eps and the
    Langevin noise have put into x is taken out.  One step on eps alone gives the reverse KL gradient
    (``diff_instruct``); longer runs move towards the forward KL.

    Args:
        langevin: K.
        step_eps, step_z: sizes h of x' = x + h grad + sqrt(2 h) n for eps and for z.
        cancel: ``sum`` takes out the initial eps and the sum of the noises, ``decayed`` the same as damped by the
            linear part of the steps (at K = 1 with step_z = 0 equal in expectation, with less variance), ``none``
            nothing.
        student_score: of q_s: a denoising ``network`` (the critic), or the ``mixture`` of another batch's conditionals,
            which needs no critic: its options have no effect then.
        weight: units of the gradient with respect to x_0: see ``level_weight``.
    """

    paper_name = "EMD"
    cheap = {**Generator.cheap, "langevin": 1}

    @with_options_of(Generator)
    def __init__(
        self,
        target: Target,
        *,
        langevin: int = 4,
        step_eps: float = 0.1,
        step_z: float = 0.01,
        cancel: Literal["sum", "decayed", "none"] = "sum",
        student_score: Literal["network", "mixture"] = "network",
        weight: LevelWeight = "eps",
        **options: object,
    ) -> None:
        super().__init__(target, **options)  # type: ignore[arg-type]
        require_positive(langevin=langevin, step_eps=step_eps)
        require_not_negative(step_z=step_z)
        self.langevin, self.step_eps, self.step_z, self.cancel = langevin, step_eps, step_z, cancel
        self.student_score, self.weight = student_score, weight
        if student_score == "mixture":
            self.critic = nn.Identity()  # type: ignore[assignment]

    def players(self) -> Sequence[Player]:
        return self.training_options.players(self.regression if self.student_score == "network" else None, self.distil)

    def e_step(self, noise: Noise) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """End of the Langevin runs: z [nfe, n, d] and eps after cancellation [n, d]; alpha_s and sigma_s [n, 1]."""
        z, eps = self.latents(self.batch, noise), noise.normal(self.batch, self.target.dim)
        s, level, alpha, sigma = self.levels(noise)
        others = self.generate(self.latents(self.batch, noise)) if self.student_score == "mixture" else None
        removed = eps
        h, h_z = self.step_eps, self.step_z
        for _ in range(self.langevin):
            x0, pull_back = torch.func.vjp(self.generate, z)  # type: ignore[misc]
            gap = self.gap(alpha * x0 + sigma * eps, s, level, others, alpha, sigma)
            xi = math.sqrt(2 * h) * noise.normal(self.batch, self.target.dim)
            eps = eps + h * (gap - eps) + xi
            removed = (1 - h if self.cancel == "decayed" else 1) * removed + xi
            if h_z > 0:
                (drift,) = pull_back(alpha / sigma * gap)
                z = z + h_z * (drift - z) + math.sqrt(2 * h_z) * self.latents(self.batch, noise)
        return z.detach(), (eps if self.cancel == "none" else eps - removed).detach(), alpha, sigma

    def gap(self, x: Tensor, s: Tensor, level: Tensor, others: Tensor | None, alpha: Tensor, sigma: Tensor) -> Tensor:
        """sigma (score_p - score_q) at x_s, from the critic or from the mixture over ``others``; [n, d] -> [n, d]."""
        if others is None:
            return self.excess(x, s, level)
        log_joint = -0.5 * ((x.unsqueeze(1) - alpha.unsqueeze(1) * others) / sigma.unsqueeze(1)).square().sum(-1)
        mean = alpha * (torch.softmax(log_joint, dim=-1) @ others)
        return (x - mean) / sigma - self.teacher.eps(x, s)

    def distil(self, noise: Noise, clock: Clock) -> Tensor:
        """A loss whose gradient is that of minus the log conditional density (its value has no meaning)."""
        z, eps, alpha, sigma = self.e_step(noise)
        weight = level_weight(self.weight, alpha, sigma)
        return -(weight * (eps / sigma * alpha * self.generate(z)).sum(-1)).mean()
