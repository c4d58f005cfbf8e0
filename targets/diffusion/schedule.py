"""Variance-preserving noise schedules: x_t = alpha_t x_0 + sigma_t eps, alpha_t^2 = alpha_bar_t = 1 - sigma_t^2."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, Literal, get_args, overload

import torch
from torch import Tensor, nn

from bench.errors import UserError

ScheduleName = Literal["linear", "cosine"]
TeacherSchedule = Literal["linear", "cosine", "own"]
"""Which schedule a method asks of a teacher; ``own``: the one it was trained with (exact teachers: linear)."""

BETA_MAX = 0.999
"""Largest beta of the cosine schedule."""

Level = float | Tensor
"""alpha or sigma: a number, or a tensor that broadcasts against the leading shape of x (one level per row)."""


def column(level: Level, x: Tensor) -> Tensor:
    """A level as a tensor of x's type that broadcasts against x [..., d]."""
    return level.to(x.dtype).unsqueeze(-1) if isinstance(level, Tensor) else x.new_full((1,), level)


class Schedule(nn.Module):
    """The discrete schedule of DDPM, t = 0 .. steps - 1, with log alpha_bar interpolated linearly between steps.

    Every function takes t as a Python number (giving a float, computed in float64: for constants of unrolled layers)
    or as a tensor of any shape and type (giving a tensor of the same shape on its device, for random times).  t = 0 is
    nearly clean, not clean: alpha_bar_0 = 1 - beta_0.

    Args:
        betas: beta_t in (0, 1), alpha_bar_t = prod_{s <= t} (1 - beta_s).

    Raises:
        UserError: fewer than two steps, or a beta outside (0, 1).
    """

    log_alpha_bars: Tensor

    def __init__(self, betas: Sequence[float]) -> None:
        super().__init__()
        if len(betas) < 2 or not all(0 < beta < 1 for beta in betas):
            raise UserError("a schedule needs at least two betas, all between 0 and 1", "change the betas")
        self.steps = len(betas)
        self._exact = tuple(accumulate(math.log1p(-beta) for beta in betas))
        # log alpha_bar keeps its relative precision in float32 where 1 - alpha_bar would not
        self.register_buffer("log_alpha_bars", torch.tensor(self._exact, dtype=torch.get_default_dtype()))

    def same_as(self, other: Schedule) -> bool:
        """Whether alpha_bar is the same at every step, to nine digits."""
        pairs = zip(self._exact, other._exact, strict=False)
        return self.steps == other.steps and all(math.isclose(a, b, rel_tol=1e-9) for a, b in pairs)

    @overload
    def log_alpha_bar(self, t: float) -> float: ...
    @overload
    def log_alpha_bar(self, t: Tensor) -> Tensor: ...
    def log_alpha_bar(self, t: float | Tensor) -> float | Tensor:
        """log alpha_bar_t, clamped to the ends of the schedule."""
        if isinstance(t, Tensor):
            table = self.log_alpha_bars
            t = t.to(table.dtype).clamp(0, self.steps - 1)
            below = t.floor().clamp(max=self.steps - 2)
            index, part = below.long(), t - below
            return table[index] * (1 - part) + table[index + 1] * part
        time = min(max(float(t), 0.0), self.steps - 1.0)
        step = min(int(time), self.steps - 2)
        return self._exact[step] * (1 - (time - step)) + self._exact[step + 1] * (time - step)

    @overload
    def alpha_bar(self, t: float) -> float: ...
    @overload
    def alpha_bar(self, t: Tensor) -> Tensor: ...
    def alpha_bar(self, t: float | Tensor) -> float | Tensor:
        """alpha_t^2."""
        value = self.log_alpha_bar(t)
        return value.exp() if isinstance(value, Tensor) else math.exp(value)

    @overload
    def alpha(self, t: float) -> float: ...
    @overload
    def alpha(self, t: Tensor) -> Tensor: ...
    def alpha(self, t: float | Tensor) -> float | Tensor:
        """Factor of the data."""
        value = self.log_alpha_bar(t)
        return (0.5 * value).exp() if isinstance(value, Tensor) else math.exp(0.5 * value)

    @overload
    def sigma(self, t: float) -> float: ...
    @overload
    def sigma(self, t: Tensor) -> Tensor: ...
    def sigma(self, t: float | Tensor) -> float | Tensor:
        """Standard deviation of the noise, sqrt(1 - alpha_bar_t)."""
        value = self.log_alpha_bar(t)
        return (-torch.expm1(value)).sqrt() if isinstance(value, Tensor) else math.sqrt(-math.expm1(value))

    @overload
    def half_log_snr(self, t: float) -> float: ...
    @overload
    def half_log_snr(self, t: Tensor) -> Tensor: ...
    def half_log_snr(self, t: float | Tensor) -> float | Tensor:
        """lambda_t = log(alpha_t / sigma_t), decreasing in t."""
        value = self.log_alpha_bar(t)
        if isinstance(value, Tensor):
            return 0.5 * (value - (-torch.expm1(value)).log())
        return 0.5 * (value - math.log(-math.expm1(value)))


def linear_schedule(steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> Schedule:
    """beta from ``first`` to ``last`` in equal steps (Ho et al. 2020, arXiv:2006.11239)."""
    return Schedule([first + (last - first) * i / (steps - 1) for i in range(steps)])


def cosine_schedule(steps: int = 1000, offset: float = 0.008) -> Schedule:
    """alpha_bar proportional to cos^2((t / T + s) / (1 + s) pi / 2), beta <= .999.

    Source: Nichol & Dhariwal 2021, arXiv:2102.09672.
    """

    def squared(i: int) -> float:
        return math.cos((i / steps + offset) / (1 + offset) * math.pi / 2) ** 2

    return Schedule([min(1 - squared(i + 1) / squared(i), BETA_MAX) for i in range(steps)])


def make_schedule(name: ScheduleName = "linear") -> Schedule:
    """The 1000-step schedule called ``name``.

    Raises:
        UserError: no such schedule.
    """
    if name not in get_args(ScheduleName):
        raise UserError(f"unknown schedule {name!r}", f"choose from: {', '.join(get_args(ScheduleName))}")
    return linear_schedule() if name == "linear" else cosine_schedule()


def log_snr_schedule(gamma_min: float, gamma_max: float, steps: int = 1000) -> Schedule:
    """gamma_t = -log(alpha_bar_t / (1 - alpha_bar_t)) from ``gamma_min`` to ``gamma_max`` in equal steps.

    The schedule on which a variational diffusion model is used as a teacher: in continuous time its bound knows only
    the end points (Kingma et al. 2021, arXiv:2107.00630), so the interior is a choice of the sampler.
    """
    gammas = [gamma_min + (gamma_max - gamma_min) * i / (steps - 1) for i in range(steps)]
    log_bars = [0.0, *(-_softplus(gamma) for gamma in gammas)]
    return Schedule([-math.expm1(after - before) for before, after in pairwise(log_bars)])


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def schedule_of(values: Mapping[str, Any]) -> Schedule:
    """The schedule that a teacher's card describes: ``name`` (linear, cosine or log_snr) and its arguments.

    Raises:
        UserError: no such schedule, or arguments that are not its.
    """
    makers: dict[str, Callable[..., Schedule]] = {
        "linear": linear_schedule,
        "cosine": cosine_schedule,
        "log_snr": log_snr_schedule,
    }
    arguments = {key: value for key, value in values.items() if key != "name"}
    try:
        return makers[values["name"]](**arguments)
    except (KeyError, TypeError) as error:
        raise UserError(f"a teacher's schedule {dict(values)}: {error}", f"known: {', '.join(makers)}") from error
