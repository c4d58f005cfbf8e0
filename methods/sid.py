"""SiD: one-layer distillation by a Fisher-type divergence over noise levels."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from bench.checks import require_positive
from bench.registry import register
from methods.base import Clock, Noise
from methods.diffusion.games import game
from methods.diffusion.generator import Generator
from methods.parts.options import with_options_of
from targets.base import Target


@register("method", "sid", source="Zhou et al., ICML 2024, arXiv:2404.04057; sizes and rates of this suite")
class SiD(Generator):
    """Score identity distillation: E over levels of w_s [<g, eps - eps*> - alpha |g|^2], g = f - eps*; data-free.

    f is the critic's estimate of the noise in x_s of q.  The gradient flows through x_s in both networks; alpha = 1/2
    is the game of SIVI-SM and HSIVI-SM.

    Args:
        alpha: 1.0 or 1.2 in the paper.
        weight: w_s: ``eps``: 1; ``x0``: (sigma_s / alpha_s)^2, the loss in units of x_0; ``paper``: that, divided by
            the mean absolute error of the teacher's x_0 on this row.
    """

    paper_name = "SiD"
    cheap = {**Generator.cheap, "weight": "eps"}

    @with_options_of(Generator)
    def __init__(
        self,
        target: Target,
        *,
        alpha: float = 1.0,
        weight: Literal["paper", "x0", "eps"] = "paper",
        **options: object,
    ) -> None:
        super().__init__(target, **options)  # type: ignore[arg-type]
        require_positive(alpha=alpha)
        self.alpha, self.weight = alpha, weight

    def distil(self, noise: Noise, clock: Clock) -> Tensor:
        """The student's loss."""
        x0 = self.generate(self.latents(self.batch, noise))
        s, level, alpha, sigma = self.levels(noise)
        eps = noise.normal(self.batch, self.target.dim)
        x = alpha * x0 + sigma * eps
        predicted = self.teacher.eps(x, s)
        value = 0.5 * game(self.excess(x, s, level, eps=predicted), predicted, eps, self.alpha)
        if self.weight != "eps":
            value = value * (sigma / alpha).square().squeeze(-1)
        if self.weight == "paper":
            error = (x0 - (x - sigma * predicted) / alpha).abs().mean(-1)
            value = value / error.detach().clamp(min=1e-3)
        return value.mean()
