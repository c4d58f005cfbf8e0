"""CoSIM: a continuous semi-implicit kernel from any noise level to any lower one, sampled in any number of steps."""

from __future__ import annotations

from typing import Literal

from torch import Generator as TorchGenerator
from torch import Tensor, nn

from bench.checks import require_not_negative, require_positive, require_share
from bench.errors import UserError
from bench.registry import register
from methods.base import Clock, Noise
from methods.diffusion.games import game, regression
from methods.diffusion.generator import Generator
from methods.diffusion.networks import Conditioned
from methods.parts.options import refuse_unused, with_options_of
from targets.base import Target
from targets.numerics import pick


@register("method", "cosim", source="Yu et al., ICML 2025, arXiv:2506.06778; level law, sizes and rates of this suite")
class CoSIM(Generator):
    """CoSIM: q(x_s | x_t) = N(alpha_s G(x_t, t), sigma_s^2 I) for all s < t, matched to p_s by a Fisher game.

    x_t is one forward noising of x_0 (no rollout, so the cost does not grow with ``nfe``), x_s = alpha_s G(x_t, t) +
    sigma_s eps; at the optimum the kernel takes p_t to p_s.  The critic knows both levels and is drawn towards the
    teacher: with the right factor in the game this leaves the best student as it is (the paper's Theorem 3.1).
    Sampling predicts x_0 and noises it to the next time of the grid, ``nfe`` times.

    Args:
        draws: where x_0 comes from: the ``current`` q (data-free) or ``reference`` draws of p, which makes it
            distillation from data; recorded as ``training_data``.
        references: how many reference draws are kept.
        regulariser: lambda, pull of the critic towards the teacher.
        alpha: 0.5 is the game, larger values are SiD-style corrections.
        weight: ``eps``: all levels alike; ``x0``: times (sigma_s / alpha_s)^2, bounded by 100.
        jump: least ratio by which s lies below t (in the scale of ``level_power``).
        eta: none, as the sampler predicts x_0 and noises it.
        level_high: without effect, as t reaches the start of the sampler; ``level_low`` is the least s.

    Raises:
        UserError: the sampler starts at or below ``level_low``, or an option has no effect.
    """

    paper_name = "CoSIM"
    cheap = {**Generator.cheap, "lr": 1e-2, "alpha": 1.0}

    references: Tensor

    @with_options_of(Generator)
    def __init__(
        self,
        target: Target,
        *,
        draws: Literal["current", "reference"] = "current",
        references: int = 10_000,
        regulariser: float = 0.1,
        alpha: float = 0.5,
        weight: Literal["eps", "x0"] = "eps",
        jump: float = 0.9,
        **options: object,
    ) -> None:
        super().__init__(target, **options)  # type: ignore[arg-type]
        require_positive(references=references, alpha=alpha)
        require_not_negative(regulariser=regulariser)
        require_share(jump=jump)
        refuse_unused(self, "the sampler of CoSIM", eta=options.get("eta", (0.0,)))
        if draws == "current":
            refuse_unused(self, "draws=current", references=references)
        level_low = self.level_range[0]
        if level_low >= self.steps.times[-1]:
            raise UserError(
                f"method.level_low={level_low:g} is not below the start of the sampler, {self.steps.times[-1]:g}",
                "give a smaller method.level_low or a higher grid",
            )
        self.draws, self.regulariser, self.alpha, self.weight, self.jump = draws, regulariser, alpha, weight, jump
        if draws == "reference":
            generator = TorchGenerator().manual_seed(0)
            self.register_buffer("references", target.truth(references, generator))

    def make_critic(self, hidden: tuple[int, ...]) -> nn.Module:
        """The critic's network: of x_s, s and t; a copy of the teacher knows s, a residual on it both."""
        residual = Conditioned(self.target.dim, 2, hidden)
        return nn.ModuleDict({"copy": self.teacher.trainable_copy(), "residual": residual}) if self.copied else residual

    def excess(self, x: Tensor, s: Tensor, *levels: Tensor, eps: Tensor | None = None) -> Tensor:
        if not isinstance(self.critic, nn.ModuleDict):
            return super().excess(x, s, *levels, eps=eps)
        f: Tensor = self.critic["copy"](x, s) + self.critic["residual"](x, *levels)
        return f - (self.teacher.eps(x, s) if eps is None else eps)

    def operations(self) -> dict[str, str]:
        used = "none" if self.draws == "current" else "reference draws"
        return {**super().operations(), "training_data": used}

    def generate(self, z: Tensor) -> Tensor:
        """The multistep sampler: predict x_0, noise it to the next time, repeat; [nfe, n, d] -> [n, d]."""
        x, steps = z[0], self.steps
        for i, k in enumerate(range(self.nfe, 1, -1)):
            x = steps.alpha[k - 1] * self.x0(x, steps.times[k]) + steps.sigma[k - 1] * z[i + 1]
        return self.x0(x, steps.times[1])

    def clean(self, noise: Noise) -> Tensor:
        """x_0 from which x_t is made, without gradient; [n, d]."""
        if self.draws == "current":
            return self.generate(self.latents(self.batch, noise)).detach()
        return self.references[pick(self.batch, len(self.references), noise)]

    def transition(self, noise: Noise) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """x_s and its noise eps, [n, d]; times s and t and the ratio sigma_s / alpha_s, [n]."""
        schedule, p = self.teacher.schedule, self.level_power
        x0 = self.clean(noise)
        top = self.steps.times[-1] ** (1 / p)  # t reaches the start of the sampler
        low = self.level_range[0] ** (1 / p)
        t = (low + (top - low) * noise.uniform(self.batch).sqrt()) ** p
        s = (low + (self.jump * t ** (1 / p) - low).clamp(min=0) * noise.uniform(self.batch)) ** p
        x_t = schedule.alpha(t)[:, None] * x0 + schedule.sigma(t)[:, None] * noise.normal(self.batch, self.target.dim)
        eps = noise.normal(self.batch, self.target.dim)
        x = schedule.alpha(s)[:, None] * self.x0(x_t, t) + schedule.sigma(s)[:, None] * eps
        return x, eps, s, t, schedule.sigma(s) / schedule.alpha(s)

    def distil(self, noise: Noise, clock: Clock) -> Tensor:
        """The student's loss: the game at x_s."""
        x, eps, s, t, ratio = self.transition(noise)
        schedule = self.teacher.schedule
        predicted = self.teacher.eps(x, s)
        g = self.excess(x, s, schedule.half_log_snr(s), schedule.half_log_snr(t), eps=predicted)
        value = game(g, predicted, eps, self.alpha, self.regulariser)
        return (value * ratio.square().clamp(max=100.0)).mean() if self.weight == "x0" else value.mean()

    def regression(self, noise: Noise, clock: Clock) -> Tensor:
        """The critic's loss, with its pull towards the teacher."""
        x, eps, s, t, _ = self.transition(noise)
        x, schedule = x.detach(), self.teacher.schedule
        predicted = self.teacher.eps(x, s)
        g = self.excess(x, s, schedule.half_log_snr(s), schedule.half_log_snr(t), eps=predicted)
        return regression(g, predicted, eps, self.regulariser).mean()
