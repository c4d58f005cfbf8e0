"""Diff-Instruct: one-layer distillation by the reverse KL divergence summed over noise levels."""

from __future__ import annotations

from torch import Tensor

from bench.registry import register
from methods.base import Clock, Noise
from methods.diffusion.generator import Generator, LevelWeight, level_weight
from methods.parts.options import with_options_of
from targets.base import Target


@register("method", "diff_instruct", source="Luo et al., NeurIPS 2023, arXiv:2305.18455; sizes and rates of this suite")
class DiffInstruct(Generator):
    """Diff-Instruct: E over levels s of w_s KL(q_s | p_s), by its path gradient; data-free.

    The gradient is E[w_s (score_q - score_p)(x_s) dx_s / dphi] with score_q from the critic, as in variational score
    distillation and DMD without its regression term.

    Args:
        weight: units of the gradient with respect to x_0: see ``level_weight``.
    """

    paper_name = "Diff-Instruct"

    @with_options_of(Generator)
    def __init__(self, target: Target, *, weight: LevelWeight = "eps", **options: object) -> None:
        super().__init__(target, **options)  # type: ignore[arg-type]
        self.weight = weight

    def distil(self, noise: Noise, clock: Clock) -> Tensor:
        """A loss whose gradient is the path gradient (its value has no meaning)."""
        x0 = self.generate(self.latents(self.batch, noise))
        s, level, alpha, sigma = self.levels(noise)
        x = alpha * x0 + sigma * noise.normal(self.batch, self.target.dim)
        direction = -self.excess(x, s, level) / sigma  # score_q - score_p = (eps* - f) / sigma
        weight = level_weight(self.weight, alpha, sigma)
        return (weight * (direction.detach() * x).sum(-1)).mean()
