"""DDPM: a noise predictor trained by regression on the noise; the teacher of the distillation methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from bench.checks import require_fraction, require_not_negative, require_positive
from bench.registry import register
from methods.base import Clock, Noise, Player
from methods.diffusion.data import spread
from methods.diffusion.denoiser import Denoiser
from methods.diffusion.training import warm_cosine
from methods.parts.optim import Adam
from methods.parts.options import with_options_of
from targets.base import Target
from targets.diffusion.schedule import ScheduleName, make_schedule

MIN_SNR = 5.0


@register("method", "ddpm", source="Ho et al., NeurIPS 2020, arXiv:2006.11239; sizes and rates of this suite")
class DDPM(Denoiser):
    """Denoising diffusion: min E_t w_t |eps(x_t, t) - eps|^2 with x_t = alpha_t x_0 + sigma_t eps, t = 0 .. T - 1.

    Args:
        schedule: ``linear`` (Ho et al.) or ``cosine`` (Nichol & Dhariwal), 1000 steps.
        times: ``spread``: one uniform number, equispaced modulo 1 (VDM), or ``uniform``, independent.
        weight: ``simple``: w = 1 (L_simple); ``min_snr``: min(snr, 5) / snr (Hang et al. 2023, arXiv:2303.09556);
            ``sigma2``: sigma_t^2.
        lr, warm_up: Adam's rate, a half cosine to 0, and its linear growth at the start (iterations).
        clip: largest gradient norm.
        ema: decay of the averaged parameters, those that are evaluated and published.
    """

    paper_name = "DDPM (teacher)"
    objective = "eps regression"
    phases = ("warm_up",)

    @with_options_of(Denoiser)
    def __init__(
        self,
        target: Target,
        *,
        schedule: ScheduleName = "linear",
        times: Literal["spread", "uniform"] = "spread",
        weight: Literal["simple", "min_snr", "sigma2"] = "simple",
        lr: float = 1e-3,
        warm_up: int = 100,
        clip: float = 1.0,
        ema: float = 0.999,
        **options: object,
    ) -> None:
        super().__init__(target, **options)  # type: ignore[arg-type]
        require_positive(lr=lr, clip=clip)
        require_not_negative(warm_up=warm_up)
        require_fraction(ema=ema)
        self.schedule_name: ScheduleName = schedule
        self.schedule = make_schedule(schedule)
        self.times, self.weight = times, weight
        self.lr, self.warm_up, self.clip, self.ema = lr, warm_up, clip, ema

    def schedule_card(self) -> Mapping[str, Any]:
        return {"name": self.schedule_name}

    def players(self) -> Sequence[Player]:
        return [
            Player(
                "net",
                ("net",),
                loss=self.regression,
                optimiser=Adam(self.lr),
                schedule=warm_cosine(self.warm_up, 0),
                clip=self.clip,
                ema=self.ema,
                ema_warm_up=True,
            )
        ]

    def regression(self, noise: Noise, clock: Clock) -> Tensor:
        """The loss, in squared units of eps, the mean over coordinates."""
        T = self.schedule.steps
        x0 = self.data.draw(self.batch, noise)
        u = spread(self.batch, noise) if self.times == "spread" else noise.uniform(self.batch)
        t = (u * T).floor().clamp(max=T - 1)
        eps = noise.normal(*x0.shape)
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        x = alpha.unsqueeze(-1) * x0 + sigma.unsqueeze(-1) * eps
        squared = (self.net(x, t) - eps).square().mean(-1)
        return (self._weight(alpha, sigma) * squared).mean()

    def _weight(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        if self.weight == "simple":
            return torch.ones_like(sigma)
        snr = (alpha / sigma).square()
        return snr.clamp(max=MIN_SNR) / snr if self.weight == "min_snr" else sigma.square()
