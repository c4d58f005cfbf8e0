"""What the distillation methods share in training: the optimisers, their schedule, the critic's head start."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from bench.checks import require_fraction, require_not_negative, require_positive
from methods.base import Clock, Loss, Player
from methods.parts.optim import Adam, Schedule


def warm_cosine(warm_up: int, start: int, floor: float = 0.0) -> Schedule:
    """A half cosine from 1 to ``floor`` at the end of the run, times a linear growth over the player's first steps.

    Args:
        warm_up: iterations of linear growth.
        start: iterations of the run before the player's first.
        floor: last factor.
    """

    def factor(clock: Clock) -> torch.Tensor:
        step, total = clock.step, max(clock.total - start, 1)
        up = torch.clamp((step + 1) / max(warm_up, 1), max=1.0)
        return up * (floor + (1 - floor) * 0.5 * (1 + torch.cos(math.pi * torch.clamp(step / total, max=1.0))))

    return factor


Decay = Literal["staircase", "cosine"]
LAST, EVERY = 0.9, 3000


def released_rates(warm_up: int, decay: Decay, per_iteration: int) -> Schedule:
    """The schedules of HSIVI's released scripts, counted in the code's iterations (``per_iteration`` to one of ours).

    Linear growth over ``warm_up`` iterations; then a factor 0.9 every 3000 of them (``staircase``), or a half cosine to
    what that staircase ends at.
    """

    def factor(clock: Clock) -> torch.Tensor:
        step, total = (clock.step + 1) * per_iteration, clock.total * per_iteration
        if decay == "staircase":
            later = LAST ** torch.floor(step / EVERY)
        else:
            end = LAST ** (total // EVERY)
            later = end + (1 - end) * 0.5 * (1 + torch.cos(math.pi * step / total))
        return torch.where(step <= warm_up, step / max(warm_up, 1), later)

    return factor


@dataclass(frozen=True, kw_only=True)
class Training:
    """Optimisers of student and critic.

    Attributes:
        lr, lr_critic: Adam's rates.
        beta1, beta2: Adam's decays, of both.
        clip: largest gradient norm, of both.
        ema: decay of the student's averaged parameters (with warm-up), used at evaluation.
        critic_steps: steps of the critic per step of the student.
        critic_first: iterations in which only the critic moves; none where there is no critic.
        warm_up: iterations of linear growth of the rates.
        decay: ``cosine`` to 0 at the end of the run, or ``none``.
    """

    lr: float
    lr_critic: float
    beta1: float
    beta2: float
    clip: float
    ema: float
    critic_steps: int
    critic_first: int
    warm_up: int
    decay: str

    def __post_init__(self) -> None:
        require_positive(lr=self.lr, lr_critic=self.lr_critic, clip=self.clip, critic_steps=self.critic_steps)
        require_fraction(beta1=self.beta1, beta2=self.beta2, ema=self.ema)
        require_not_negative(critic_first=self.critic_first, warm_up=self.warm_up)

    def players(self, critic: Loss | None, student: Loss) -> list[Player]:
        """The critic, ``critic_steps`` times, then the student; they own modules of these names."""
        start = 0 if critic is None else self.critic_first
        players = [
            Player(
                "student",
                ("student",),
                loss=student,
                optimiser=Adam(self.lr, (self.beta1, self.beta2)),
                schedule=self._schedule(start),
                clip=self.clip,
                ema=self.ema,
                ema_warm_up=True,
                start=start,
            )
        ]
        if critic is not None:
            first = Player(
                "critic",
                ("critic",),
                loss=critic,
                optimiser=Adam(self.lr_critic, (self.beta1, self.beta2)),
                schedule=self._schedule(0),
                clip=self.clip,
                steps=self.critic_steps,
            )
            players.insert(0, first)
        return players

    def _schedule(self, start: int) -> Schedule:
        if self.decay == "cosine":
            return warm_cosine(self.warm_up, start)
        return lambda clock: torch.clamp((clock.step + 1) / max(self.warm_up, 1), max=1.0)
