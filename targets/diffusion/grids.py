"""Time grids of few-step samplers: tau_0 < tau_1 < ... < tau_N, so that N evaluations lead from tau_N down to tau_0.

The network is evaluated at tau_N, ..., tau_1 and the sample lands at tau_0: every sampler on the same grid ends at the
same noise level.  How sample quality depends on the grid is large (a factor 5 to 13 for DPM-Solver++ at five
evaluations, docs/diffusion.md), so it is a hyper-parameter of every sampler and never implied.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

from bench.errors import UserError
from targets.diffusion.schedule import Schedule

GridName = Literal["quad", "uniform", "cosine", "trailing", "leading", "logsnr", "power", "explicit"]
TOP = 0.8
"""Share of the schedule at which quad, cosine, logsnr and power grids start: 800 of 1000 steps (alpha_bar .0015)."""


def time_grid(
    name: GridName, nfe: int, schedule: Schedule, *, power: float = 3.0, times: Sequence[int] = ()
) -> tuple[int, ...]:
    """nfe + 1 increasing integer times, the first where the sample lands.

    With T steps and top t = .8 T:

    - ``quad``: linspace(0, sqrt(t), N + 1)^2 (DDIM on CIFAR-10, HSIVI-SM), that is ``power`` 2;
    - ``power``: linspace(0, t^(1/p), N + 1)^p;
    - ``uniform``: multiples of floor(T / (N + 1)) from 0 to N (improved-diffusion, HSIVI-SM on ImageNet): its top falls
      to 830 at N = 5;
    - ``cosine``: t (1 - cos(pi i / 2 N));
    - ``trailing``: T i / N - 1, and 0;
    - ``leading``: floor(T / N) (i - 1) + 1, and 0;
    - ``logsnr``: equal steps of log(alpha / sigma) from t to 0 (DPM-Solver);
    - ``explicit``: ``times``.

    Rounding is to the nearest integer; times that would coincide are pushed up by one.

    Args:
        name: see above.
        nfe: N >= 1.
        schedule: T, and the signal-to-noise ratio.
        power: p of ``power``.
        times: of ``explicit``, increasing or decreasing.

    Raises:
        UserError: no such grid, no evaluation, or explicit times that do not fit.
    """
    if name not in get_args(GridName):
        raise UserError(f"unknown grid {name!r}", f"choose from: {', '.join(get_args(GridName))}")
    if nfe < 1 or nfe >= schedule.steps:
        raise UserError(f"a grid for nfe={nfe}", f"take from 1 to {schedule.steps - 1} evaluations")
    if power <= 0:
        raise UserError(f"a grid with power={power}", "take a positive power")
    if name == "explicit":
        return _explicit(nfe, schedule, times)
    if times:
        raise UserError(f"times={list(times)} beside the grid {name!r}", "they belong to grid=explicit")
    T, N = schedule.steps, nfe
    top = TOP * T
    steps = range(1, N + 1)
    if name in ("quad", "power"):
        p = 2.0 if name == "quad" else power
        found = [(top ** (1 / p) * i / N) ** p for i in steps]
    elif name == "uniform":
        found = [float(T // (N + 1) * i) for i in steps]
    elif name == "cosine":
        found = [top * (1 - math.cos(math.pi * i / (2 * N))) for i in steps]
    elif name == "trailing":
        found = [T * i / N - 1 for i in steps]
    elif name == "leading":
        found = [float(T // N * (i - 1) + 1) for i in steps]
    else:
        low, high = schedule.half_log_snr(top), schedule.half_log_snr(0)
        found = [time_of_half_log_snr(schedule, high + (low - high) * i / N) for i in steps]
    return _increasing([0, *(round(t) for t in found)])


def time_of_half_log_snr(schedule: Schedule, value: float) -> float:
    """The time t, a real number, at which log(alpha_t / sigma_t) is ``value``; by bisection."""
    low, high = 0.0, schedule.steps - 1.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if schedule.half_log_snr(middle) > value else (low, middle)
    return 0.5 * (low + high)


def _increasing(times: list[int]) -> tuple[int, ...]:
    for i in range(1, len(times)):
        times[i] = max(times[i], times[i - 1] + 1)
    return tuple(times)


def _explicit(nfe: int, schedule: Schedule, times: Sequence[int]) -> tuple[int, ...]:
    found = tuple(sorted(times))
    if len(found) != nfe + 1 or len(set(found)) != len(found):
        raise UserError(f"{len(times)} times {list(times)} for nfe={nfe}", "give nfe + 1 different times")
    if found[0] < 0 or found[-1] >= schedule.steps:
        raise UserError(f"times {list(times)}", f"they must lie between 0 and {schedule.steps - 1}")
    return found
