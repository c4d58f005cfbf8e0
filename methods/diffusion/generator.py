"""One-layer distillation: a generator x_0 = G(z) of ``nfe`` evaluations, noised to many levels and compared there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from bench.checks import require_positive
from bench.errors import UserError
from methods.base import Clock, Method, Noise, Player
from methods.diffusion.networks import Conditioned
from methods.diffusion.steps import Steps
from methods.diffusion.training import Training
from targets.base import Target
from targets.diffusion.eps import EpsTeacher, teacher_of
from targets.diffusion.grids import GridName, time_grid
from targets.diffusion.schedule import TeacherSchedule

LevelWeight = Literal["eps", "x0", "score"]


class Generator(Method):
    """q(x_0): a chain of ``nfe`` DDIM(eta) steps with a student for its prediction of x_0, and a critic of q noised.

    Noised to level s, x_s = alpha_s G(z) + sigma_s eps is a one-layer semi-implicit variable whose conditional score is
    -eps / sigma_s; f(x_s, s) = eps* + critic estimates E[eps | x_s], minus sigma_s times the score of q_s.  With one
    evaluation G(z) is the student's x_0 at the top of the grid; with more, z holds the noise of every step and
    gradients flow through the whole chain.  Student and critic are residuals on the teacher that start at zero, or
    copies of its network: either way training starts at DDIM(eta) on the same grid.

    Args:
        target: needs a diffusion teacher.
        nfe: evaluations per draw.
        schedule: of the diffusion; ``own`` takes the one a trained teacher was trained with.
        grid, power, times: tau_0..tau_N, see ``targets.diffusion.grids``; a draw is the x_0 predicted at tau_1, so
            that tau_0 is not used.
        eta: of the chain's steps; one value, or one per step, the lowest (which makes the draw and adds no noise)
            first.
        network: ``residual`` networks on the teacher, or copies of a trained ``teacher``.
        hidden, critic: widths of residual networks.
        batch: rows per step.
        level_low, level_high: bounds of the levels s.
        level_power: s = (low^(1/p) + u (high^(1/p) - low^(1/p)))^p with u uniform: 1 is uniform, larger p put more
            levels at low noise.
        lr, lr_critic, beta1, beta2, clip, ema, critic_steps, critic_first, warm_up, decay: see
            ``methods.diffusion.training``.
    """

    needs = frozenset({"teacher"})
    added = {"network": "residual"}
    phases = ("critic_first", "warm_up")
    cheap = {
        "batch": 32,
        "hidden": (16,),
        "critic": (16,),
        "critic_steps": 1,
        "critic_first": 0,
        "warm_up": 1,
        "lr": 5e-3,
        "lr_critic": 1e-2,
        "ema": 0.97,
        "level_low": 50.0,
        "level_high": 400.0,
    }

    def __init__(
        self,
        target: Target,
        *,
        nfe: int = 1,
        schedule: TeacherSchedule = "linear",
        grid: GridName = "quad",
        power: float = 3.0,
        times: tuple[int, ...] = (),
        eta: tuple[float, ...] = (0.0,),
        network: Literal["residual", "teacher"] = "residual",
        hidden: tuple[int, ...] = (128, 128, 128),
        critic: tuple[int, ...] = (128, 128, 128),
        batch: int = 256,
        level_low: float = 10.0,
        level_high: float = 800.0,
        level_power: float = 2.0,
        lr: float = 5e-4,
        lr_critic: float = 1e-3,
        beta1: float = 0.5,
        beta2: float = 0.99,
        clip: float = 10.0,
        ema: float = 0.995,
        critic_steps: int = 5,
        critic_first: int = 40,
        warm_up: int = 40,
        decay: Literal["cosine", "none"] = "cosine",
    ) -> None:
        super().__init__(target)
        require_positive(nfe=nfe, hidden=hidden, critic=critic, batch=batch, level_power=level_power)
        self.teacher = teacher_of(target, schedule)
        top = self.teacher.schedule.steps - 1
        if not 0 <= level_low < level_high <= top:
            raise UserError(
                f"levels from {level_low} to {level_high} of a schedule that ends at {top}",
                "choose 0 <= method.level_low < method.level_high within it",
            )
        found = time_grid(grid, nfe, self.teacher.schedule, power=power, times=times)
        self.steps = Steps(found, self.teacher.schedule, tuple(eta))
        self.nfe, self.batch = nfe, batch
        self.level_range, self.level_power = (level_low, level_high), level_power
        self.copied = network == "teacher"
        self.student: nn.Module = Conditioned(target.dim, 1, tuple(hidden))
        if self.copied:
            self.student = self.teacher.trainable_copy()
        self.critic = self.make_critic(tuple(critic))
        self.training_options = Training(
            lr=lr, lr_critic=lr_critic, beta1=beta1, beta2=beta2, clip=clip, ema=ema,
            critic_steps=critic_steps, critic_first=critic_first, warm_up=warm_up, decay=decay,
        )  # fmt: skip

    def make_critic(self, hidden: tuple[int, ...]) -> nn.Module:
        """The critic's network: of x_s and s."""
        return self.teacher.trainable_copy() if self.copied else Conditioned(self.target.dim, 1, hidden)

    def players(self) -> Sequence[Player]:
        return self.training_options.players(self.regression, self.distil)

    def operations(self) -> dict[str, str]:
        return {"training_data": "none", "teacher": self.teacher.label}

    def networks(self) -> Sequence[nn.Module]:
        """A residual student evaluates the teacher each time; a copy of it is evaluated in its place."""
        return [self.student if self.copied else self.teacher]

    def latents(self, n: int, noise: Noise) -> Tensor:
        """z: the start of the chain and the noise of its steps, from the top; [nfe, n, d]."""
        return noise.normal(self.nfe, n, self.target.dim)

    def x0(self, x: Tensor, t: float | Tensor) -> Tensor:
        """The student's prediction of x_0 at time t, a number or a tensor [n]; [n, d] -> [n, d]."""
        if isinstance(self.student, EpsTeacher):
            return self.student.x0(x, t)
        lam = self.teacher.schedule.half_log_snr(t)
        level = lam if isinstance(lam, Tensor) else x.new_full((), lam)
        return self.teacher.x0(x, t) + self.student(x, level)

    def generate(self, z: Tensor) -> Tensor:
        """G(z): the chain; [nfe, n, d] -> [n, d]."""
        x, steps = z[0], self.steps
        for i, k in enumerate(range(self.nfe, 1, -1)):
            x0 = self.x0(x, steps.times[k])
            eps = (x - steps.alpha[k] * x0) / steps.sigma[k]
            x = steps.mean(k, x, eps) + steps.sd[k] * z[i + 1]
        return self.x0(x, steps.times[1])

    def excess(self, x: Tensor, s: Tensor, *levels: Tensor, eps: Tensor | None = None) -> Tensor:
        """g = f - eps* at x_s [n, d]; times s and half-log-SNR that residual critics know, [n]; eps* if it is known."""
        found: Tensor = self.critic(x, s) if self.copied else self.critic(x, *levels)
        if not self.copied:
            return found
        return found - (self.teacher.eps(x, s) if eps is None else eps)

    def levels(self, noise: Noise) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Random levels: time [n], half-log-SNR [n], alpha and sigma [n, 1]."""
        low, high = (bound ** (1 / self.level_power) for bound in self.level_range)
        s = (low + (high - low) * noise.uniform(self.batch)) ** self.level_power
        schedule = self.teacher.schedule
        return s, schedule.half_log_snr(s), schedule.alpha(s).unsqueeze(-1), schedule.sigma(s).unsqueeze(-1)

    def regression(self, noise: Noise, clock: Clock) -> Tensor:
        """The critic's loss: E |f(x_s, s) - eps|^2 over draws of the current q, all levels alike."""
        x0 = self.generate(self.latents(self.batch, noise)).detach()
        s, level, alpha, sigma = self.levels(noise)
        eps = noise.normal(self.batch, self.target.dim)
        x = alpha * x0 + sigma * eps
        predicted = self.teacher.eps(x, s)
        return (self.excess(x, s, level, eps=predicted) + predicted - eps).square().sum(-1).mean()

    def distil(self, noise: Noise, clock: Clock) -> Tensor:
        """The student's loss."""
        raise NotImplementedError

    def sample(self, n: int, noise: Noise) -> Tensor:
        return self.generate(self.latents(n, noise))


def level_weight(kind: LevelWeight, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Factor on (score_q - score_p) so that the gradient with respect to x_0 is in the units named; [n, 1] -> [n].

    ``eps``: the difference of predicted noises; ``x0``: of predicted x_0; ``score``: of scores times alpha, which is
    the plain sum of the divergences at all levels.
    """
    factor = {"eps": sigma / alpha, "x0": sigma.square() / alpha.square(), "score": torch.ones_like(sigma)}[kind]
    return factor.squeeze(-1)
