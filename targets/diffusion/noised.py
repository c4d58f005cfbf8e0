"""Targets whose noised marginals are known: p_t, the law of alpha_t x_0 + sigma_t eps with x_0 ~ p, eps ~ N(0, I)."""

from __future__ import annotations

import torch
from torch import Tensor

from targets.base import Target
from targets.diffusion.eps import EpsTeacher, Time
from targets.diffusion.files import open_teacher
from targets.diffusion.schedule import Level, Schedule, column, linear_schedule


class Diffusable(Target):
    """A target with the density or score of alpha x_0 + sigma eps for any alpha, sigma > 0; exact, no network.

    Subclasses give ``noised_log_prob``, ``noised_score`` or both.
    """

    teacher_id = ""
    """Id or path of a trained teacher to be used in place of the exact one."""

    def noised_log_prob(self, x: Tensor, alpha: Level, sigma: Level) -> Tensor:
        """log p_t(x), normalised as far as p is; [..., d] -> [...] (nats)."""
        raise NotImplementedError

    def noised_score(self, x: Tensor, alpha: Level, sigma: Level) -> Tensor:
        """grad_x log p_t(x); [..., d] -> [..., d].  Autograd unless a closed form overrides it."""
        return torch.func.grad(lambda y: self.noised_log_prob(y, alpha, sigma).sum())(x)

    def noised_eps(self, x: Tensor, alpha: Level, sigma: Level) -> Tensor:
        """E[eps | alpha x_0 + sigma eps = x] = -sigma grad log p_t(x) (Tweedie); [..., d] -> [..., d]."""
        return -column(sigma, x) * self.noised_score(x, alpha, sigma)

    def noised(self, t: float, schedule: Schedule | None = None) -> Target:
        """The marginal at time t of ``schedule`` (linear, 1000 steps, unless given) as a target."""
        schedule = linear_schedule() if schedule is None else schedule
        return Noised(self, schedule.alpha(t), schedule.sigma(t))

    def teacher(self, schedule: Schedule | None = None) -> EpsTeacher:
        """The noise predictor of this target's diffusion: exact, unless ``teacher_id`` names a trained one."""
        if self.teacher_id:
            name, make = self.registered_name, "sivibench teacher toy"
            return open_teacher(self.teacher_id, shape=(self.dim,), data=name, schedule=schedule, make=make)
        return AnalyticTeacher(self, linear_schedule() if schedule is None else schedule)


class Noised(Diffusable):
    """p_t as a target of its own: the law of alpha x_0 + sigma eps.

    Args:
        target: the law of x_0.
        alpha: > 0.
        sigma: >= 0.
    """

    def __init__(self, target: Diffusable, alpha: float, sigma: float) -> None:
        super().__init__()
        self.target, self.dim, self.alpha, self.sigma = target, target.dim, alpha, sigma

    def log_prob(self, x: Tensor) -> Tensor:
        return self.target.noised_log_prob(x, self.alpha, self.sigma)

    def score(self, x: Tensor) -> Tensor:
        return self.target.noised_score(x, self.alpha, self.sigma)

    def noised_log_prob(self, x: Tensor, alpha: Level, sigma: Level) -> Tensor:
        return self.target.noised_log_prob(x, alpha * self.alpha, self._total(alpha, sigma))

    def noised_score(self, x: Tensor, alpha: Level, sigma: Level) -> Tensor:
        return self.target.noised_score(x, alpha * self.alpha, self._total(alpha, sigma))

    def _total(self, alpha: Level, sigma: Level) -> Level:
        """sd of the noise after another alpha x + sigma eps."""
        return ((alpha * self.sigma) ** 2 + sigma**2) ** 0.5

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n exact draws, [n, d] (CPU, float32)."""
        x = self.target.sample(n, generator).double()
        eps = torch.randn(n, self.dim, generator=generator, dtype=torch.float64)
        return (self.alpha * x + self.sigma * eps).float()


class AnalyticTeacher(EpsTeacher):
    """The exact eps* of a target whose noised marginals are known.

    Args:
        target: p.
        schedule: of the diffusion.
    """

    def __init__(self, target: Diffusable, schedule: Schedule) -> None:
        super().__init__(schedule, target.dim)
        self.target = target

    def forward(self, x: Tensor, t: Time) -> Tensor:
        return self.target.noised_eps(x, self.schedule.alpha(t), self.schedule.sigma(t))
