"""VDM: a noise predictor trained by a bound on the likelihood, with a learned noise schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from bench.checks import require_fraction, require_not_negative, require_positive
from bench.errors import UserError
from bench.registry import register
from methods.base import Clock, Noise, Player
from methods.diffusion.data import spread
from methods.diffusion.denoiser import Denoiser
from methods.diffusion.gamma import Ends, Interior, Monotone, Straight
from methods.diffusion.training import warm_cosine
from methods.parts.optim import Adam
from methods.parts.options import refuse_unused, with_options_of
from targets.base import Target

NETWORK_STEPS = 1000
"""The network sees gamma as a time of a schedule of so many steps, log-snr linear in it."""


@register("method", "vdm", source="Kingma et al., NeurIPS 2021, arXiv:2107.00630; sizes and rates of this suite")
class VDM(Denoiser):
    """Variational diffusion model: z_t = alpha x + sigma eps, alpha^2 = sigmoid(-gamma), sigma^2 = sigmoid(gamma).

    -log p(x) <= E[-log p(x | z_0)] + KL(q(z_1 | x) | N(0, I)) + diffusion, gamma = gamma(t), t in [0, 1]:

        continuous time:  1/2 E_t gamma'(t) |eps - net(z_t, gamma_t)|^2                            (its eq. 17)
        T steps:          T/2 E_i (exp(gamma_t - gamma_s) - 1) |eps - net(z_t, gamma_t)|^2         (its eq. 14)

    with t = i / T, s = t - 1 / T and times spread over the batch.  p(x | z_0) is the normal likelihood over the
    levels of a pixel, or N(z_0 / alpha_0, sigma_0^2 / alpha_0^2) for continuous data.  In continuous time only the end
    points of gamma matter; a learned interior is fitted to make the estimate less noisy, by its own player.

    Args:
        timesteps: T, or 0 for continuous time.
        gamma_min, gamma_max: -log snr at both ends (at the start, if learned); the paper's are -13.3 and 5.
        ends: ``learned`` by the bound, or ``fixed``.
        interior: gamma ``linear`` in t, or a ``learned`` monotone function.
        lr, warm_up: Adam's rate, a half cosine to 0, and its linear growth at the start (iterations).
        lr_schedule: rate of the interior.
        clip: largest gradient norm.
        ema: decay of the averaged parameters, those that are evaluated and published.
    """

    paper_name = "VDM (teacher)"
    objective = "likelihood bound of variational diffusion"
    phases = ("warm_up",)

    @with_options_of(Denoiser)
    def __init__(
        self,
        target: Target,
        *,
        timesteps: int = 0,
        gamma_min: float = -8.0,
        gamma_max: float = 7.0,
        ends: Literal["learned", "fixed"] = "learned",
        interior: Interior = "linear",
        lr: float = 1e-3,
        lr_schedule: float = 1e-2,
        warm_up: int = 100,
        clip: float = 1.0,
        ema: float = 0.999,
        **options: object,
    ) -> None:
        super().__init__(target, **options)  # type: ignore[arg-type]
        require_positive(lr=lr, lr_schedule=lr_schedule, clip=clip)
        require_not_negative(warm_up=warm_up, timesteps=timesteps)
        require_fraction(ema=ema)
        if gamma_min >= gamma_max:
            raise UserError(
                f"method.gamma_min={gamma_min} must be below method.gamma_max={gamma_max}",
                "change one of them or leave both out",
            )
        if interior == "linear":
            refuse_unused(self, "interior=linear", lr_schedule=lr_schedule)
        self.ends = Ends(gamma_min, gamma_max).requires_grad_(ends == "learned")
        self.interior = Monotone() if interior == "learned" else Straight()
        self.timesteps = timesteps
        self.lr, self.lr_schedule, self.warm_up, self.clip, self.ema = lr, lr_schedule, warm_up, clip, ema

    def schedule_card(self) -> Mapping[str, Any]:
        low, span = (float(value) for value in self.ends())
        return {"name": "log_snr", "gamma_min": low, "gamma_max": low + span, "steps": NETWORK_STEPS}

    def players(self) -> Sequence[Player]:
        shared: dict[str, Any] = {"schedule": warm_cosine(self.warm_up, 0), "ema": self.ema, "ema_warm_up": True}
        learned = isinstance(self.interior, Monotone)
        owns = ("net", "ends", "interior") if learned and self.timesteps else ("net", "ends")
        players = [Player("net", owns, loss=self.bound, optimiser=Adam(self.lr), clip=self.clip, **shared)]
        if learned and not self.timesteps:
            spread_out = Adam(self.lr_schedule)
            players.append(Player("interior", ("interior",), loss=self.variance, optimiser=spread_out, **shared))
        return players

    def gamma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """gamma(t) and gamma'(t); [n] -> [n], [n]."""
        low, span = self.ends()
        value, slope = self.interior(t)
        return low + span * value, span * slope

    def predicted(self, z: Tensor, gamma: Tensor) -> Tensor:
        """eps of z at gamma; [n, d], [n] -> [n, d]."""
        low, span = self.ends()
        out: Tensor = self.net(z, (NETWORK_STEPS - 1) * (gamma - low) / span)
        return out

    def diffusion(self, x: Tensor, noise: Noise) -> Tensor:
        """The diffusion term of every row at one random time, spread over the rows; [n, d] -> [n] (nats)."""
        t, T = spread(len(x), noise), self.timesteps
        if T:
            t = (t * T).ceil().clamp(min=1) / T
        gamma, slope = self.gamma(t)
        weight = T * torch.expm1(gamma - self.gamma(t - 1 / T)[0]) if T else slope
        eps = noise.normal(*x.shape)
        z = torch.sigmoid(-gamma).sqrt()[:, None] * x + torch.sigmoid(gamma).sqrt()[:, None] * eps
        return 0.5 * weight * (self.predicted(z, gamma) - eps).square().sum(-1)

    def reconstruction(self, x: Tensor, noise: Noise) -> Tensor:
        """-log p(x | z_0) of every row; [n, d] -> [n] (nats)."""
        low, _ = self.ends()
        eps, log_sd = noise.normal(*x.shape), 0.5 * low  # z_0 / alpha_0 = x + exp(gamma_0 / 2) eps
        levels = self.data.levels
        if levels is None:
            return (0.5 * eps.square() + log_sd + 0.5 * math.log(2 * math.pi)).sum(-1)
        values = torch.linspace(-1, 1, levels, dtype=x.dtype, device=x.device)
        seen = x + log_sd.exp() * eps
        logits = -0.5 * (-low).exp() * (seen.unsqueeze(-1) - values).square()
        index = ((x + 1) * (0.5 * (levels - 1))).round().long()
        return -torch.log_softmax(logits, dim=-1).gather(-1, index.unsqueeze(-1)).squeeze(-1).sum(-1)

    def prior(self, x: Tensor) -> Tensor:
        """KL(q(z_1 | x) | N(0, I)); [n, d] -> [n] (nats)."""
        low, span = self.ends()
        gamma = low + span
        variance = torch.sigmoid(gamma)
        return 0.5 * (torch.sigmoid(-gamma) * x.square() + variance - 1 - torch.nn.functional.logsigmoid(gamma)).sum(-1)

    def nll_bound(self, x: Tensor, noise: Noise) -> Tensor:
        return self.reconstruction(x, noise) + self.prior(x) + self.diffusion(x, noise)

    def bound(self, noise: Noise, clock: Clock) -> Tensor:
        """The loss, in bits per dimension."""
        x = self.data.draw(self.batch, noise)
        return self.nll_bound(x, noise).mean() / (self.target.dim * math.log(2))

    def variance(self, noise: Noise, clock: Clock) -> Tensor:
        """The interior's loss: the second moment of the diffusion term (its mean does not depend on the interior)."""
        x = self.data.draw(self.batch, noise)
        return (self.diffusion(x, noise) / self.target.dim).square().mean()
