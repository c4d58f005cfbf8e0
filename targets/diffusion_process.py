"""Conditioned diffusion: the posterior of a discretised Langevin path in a double well, given noisy positions.

With t_i = i / d, D = 1 / d, x_0 = 0 and the observations y_j of the positions x_5, x_10, ..., x_d,

    log p(x) = - sum_i (x_i - x_{i-1} - f(x_{i-1}) D)^2 / (2 D) - sum_j (y_j - x_{5 j})^2 / (2 s^2),    s = 0.1

up to a constant (Cheng et al. 2024, section 6.3 and appendix; Detommaso et al. 2018, arXiv:1806.03085).  Two drifts f
are in use and their posteriors differ by more than the best methods' error: the code of KSIVI, and with it every
published number, has f(u) = 10 u (1 - u^2) / (1 + u^2); the papers print the SDE with f(u) = 10 u (1 - u^2).  The data
come from a path of the printed SDE in both cases.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Generator, Tensor

from bench.checks import require_choice
from bench.registry import register
from targets.base import Target
from targets.stored_draws import load_reference

Drift = Literal["code", "paper"]
BETA = 10.0
OBSERVE_EVERY = 5
NOISE_SD = 0.1
DATA_SEED = 2022
SOURCE = "Langevin_post in the code of KSIVI (Cheng et al. 2024, arXiv:2405.18997); after Detommaso et al. 2018"


def observations(steps: int) -> Tensor:
    """The data y, [steps // 5] in float64: a path of the printed SDE, observed every fifth step with sd 0.1 noise.

    The stream is torch's with seed 2022, in float32 and in the official order (all path increments, then the
    observation noise), so for 100 steps these are the published data.  Data for other lengths are not published:
    here they follow from the same recipe with ``steps`` increments.
    """
    stream = Generator().manual_seed(DATA_SEED)
    increments = torch.randn(steps, 1, generator=stream, dtype=torch.float32).double().ravel().tolist()
    noise = torch.randn(steps // OBSERVE_EVERY, 1, generator=stream, dtype=torch.float32).double().ravel()
    path, u = [], 0.0
    for xi in increments:
        u += BETA * u * (1 - u * u) / steps + math.sqrt(1 / steps) * xi
        path.append(u)
    return torch.tensor(path, dtype=torch.float64)[OBSERVE_EVERY - 1 :: OBSERVE_EVERY] + NOISE_SD * noise


class ConditionedDiffusion(Target):
    """Base of the three lengths; subclasses set ``dim``, the number of steps of the path.

    One mode: the observations keep the path in one of the two wells (with the drift ``paper`` Newton's method finds
    local modes of other paths, lower by some 90 nats).

    Args:
        drift: ``code`` or ``paper``, see the module.  Reference draws exist for ``code``.

    Raises:
        UserError: another drift.
    """

    metrics = (
        "sliced_w2",
        "sliced_w1",
        "log_ml_kde",
        "marginal_mean_error",
        "marginal_sd_error",
        "correlation_rmse",
        "ksd",
    )
    curve_metric = "sliced_w2"
    reference_sampler = "mala"

    y: Tensor

    def __init__(self, *, drift: Drift = "code") -> None:
        super().__init__()
        require_choice(Drift, "target", drift=drift)
        self.drift_form = drift
        self.register_buffer("y", observations(self.dim).to(torch.get_default_dtype()))

    def drift(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """f(u) and f'(u), elementwise."""
        s = u.square()
        if self.drift_form == "paper":
            return BETA * u * (1 - s), BETA * (1 - 3 * s)
        r = 2 / (1 + s)  # (1 - s) / (1 + s) = r - 1
        return BETA * u * (r - 1), BETA * (r * r * (1 - s) / 2 - 1)

    def _residuals(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Moves less their drift, [..., d]; f' of x_1 .. x_{d-1}, [..., d - 1]; misfits y_j - x_{5 j}, [..., m]."""
        before = x[..., :-1]
        f, slope = self.drift(before)
        moves = x[..., 1:] - before - f / self.dim
        first = x[..., :1]  # x_0 = 0 and f(0) = 0
        return torch.cat((first, moves), -1), slope, self.y - x[..., OBSERVE_EVERY - 1 :: OBSERVE_EVERY]

    def log_prob(self, x: Tensor) -> Tensor:
        """Unnormalised; [..., d] -> [...] (nats)."""
        moves, _, misfit = self._residuals(x)
        return -0.5 * (self.dim * moves.square().sum(-1) + misfit.square().sum(-1) / NOISE_SD**2)

    def score(self, x: Tensor) -> Tensor:
        """Closed form in O(d); [..., d] -> [..., d]."""
        moves, slope, misfit = self._residuals(x)
        onward = moves[..., 1:] * (self.dim + slope)  # what x_i does to the move that starts there
        zero = torch.zeros_like(misfit)
        pull = torch.stack([zero] * (OBSERVE_EVERY - 1) + [misfit / NOISE_SD**2], -1).flatten(-2)
        return torch.cat((onward, torch.zeros_like(onward[..., :1])), -1) - self.dim * moves + pull

    def reference(self) -> Tensor:
        """Stored MALA draws, [m, d] (CPU, float32); made by ``sivibench reference <target>``.

        Raises:
            UserError: the file is missing, corrupt or of another target version.
            Unsupported: ``drift`` is not ``code``.
        """
        return load_reference(self.registered_name, self.version, {"drift": self.drift_form})


@register("target", "cond_diffusion_d50", source=SOURCE)
class ConditionedDiffusion50(ConditionedDiffusion):
    """Conditioned diffusion of 50 steps, 10 observations (data of this suite, same recipe)."""

    dim = 50


@register("target", "cond_diffusion_d100", source=SOURCE)
class ConditionedDiffusion100(ConditionedDiffusion):
    """Conditioned diffusion of 100 steps, 20 observations: the published data."""

    dim = 100


@register("target", "cond_diffusion_d200", source=SOURCE)
class ConditionedDiffusion200(ConditionedDiffusion):
    """Conditioned diffusion of 200 steps, 40 observations (data of this suite, same recipe)."""

    dim = 200
