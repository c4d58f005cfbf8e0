"""The one-dimensional densities of the SIVI paper (Yin & Zhou 2018, arXiv:1805.11183), all normalised.

Windows hold all but some 1e-6 of the mass; on them the grid divergences resolve cusps and tails.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Generator, Tensor

from bench.checks import require_choice
from bench.registry import register
from targets.base import Target
from targets.mixture import GaussianMixture
from targets.numerics import bounded_exp, bounded_exp_slope

Coordinate = Literal["log", "original"]
METRICS_1D = ("js_grid", "kl_forward_grid", "kl_reverse_grid", "sliced_w1", "sliced_w2", "mmd", "ksd")
SOURCE = "Yin & Zhou 2018 (SIVI), arXiv:1805.11183, one-dimensional examples"


@register("target", "laplace_1d", source=SOURCE)
class Laplace1D(Target):
    """Laplace density of scale b = 2: exp(-|x| / 2) / 4; heavier tails than any single Gaussian."""

    dim = 1
    log_z = 0.0
    metrics = METRICS_1D
    curve_metric = "js_grid"
    window = ((-28.0, 28.0),)

    scale = 2.0

    def log_prob(self, x: Tensor) -> Tensor:
        """-|x| / b - log 2b; [..., 1] -> [...] (nats)."""
        return -x[..., 0].abs() / self.scale - math.log(2 * self.scale)

    def score(self, x: Tensor) -> Tensor:
        """-sign(x) / b, and 0 at the cusp; [..., 1] -> [..., 1]."""
        return -x.sign() / self.scale

    def sample(self, n: int, generator: Generator) -> Tensor:
        """n exact draws, [n, 1] (CPU, float32): the difference of two exponentials."""
        u = torch.rand(n, 2, generator=generator, dtype=torch.float64)
        exponentials = -self.scale * torch.log1p(-u)
        return (exponentials[:, :1] - exponentials[:, 1:]).float()


@register("target", "mixture_1d", source=SOURCE)
class Mixture1D(GaussianMixture):
    """Two overlapping modes: .3 N(-2, 1) + .7 N(2, 1)."""

    metrics = METRICS_1D
    curve_metric = "js_grid"
    window = ((-8.0, 8.0),)

    def __init__(self) -> None:
        super().__init__([[-2.0], [2.0]], [[[1.0]], [[1.0]]], [0.3, 0.7])


@register("target", "gaussian_1d", source=SOURCE)
class Gaussian1D(GaussianMixture):
    """N(0, 9), variance 9: what any method should match exactly."""

    metrics = METRICS_1D
    curve_metric = "js_grid"
    window = ((-18.0, 18.0),)

    def __init__(self) -> None:
        super().__init__([[0.0]], [[[9.0]]])


@register("target", "gamma_1d", source=SOURCE)
class Gamma1D(Target):
    """Gamma(2, 1), density x exp(-x) on x > 0.

    The paper fits it with a log-normal conditional, which is a Gaussian one for log x: hence the default coordinate.
    Metrics are those of x in either case.

    Args:
        coordinate: ``log``: the method fits y = log x, with log p(y) = 2y - exp(y) on the whole line; ``original``: it
            fits x itself, where log_prob is -inf and the score 0 for x <= 0 (a q with mass there has KL(q || p) = inf).
    """

    dim = 1
    log_z = 0.0
    metrics = METRICS_1D
    curve_metric = "js_grid"

    def __init__(self, *, coordinate: Coordinate = "log") -> None:
        super().__init__()
        require_choice(Coordinate, "target", coordinate=coordinate)
        self.in_log = coordinate == "log"
        # the upper end of x leaves 64 grid cells per unit, so that 0 is an edge of cells
        self.window = ((-8.0, 3.2),) if self.in_log else ((-1.0, 29.0),)
        self.in_original = Gamma1D(coordinate="original") if self.in_log else None

    def original(self) -> Target:
        return self if self.in_original is None else self.in_original

    def to_original(self, x: Tensor) -> Tensor:
        return x.exp() if self.in_log else x

    def log_prob(self, x: Tensor) -> Tensor:
        """[..., 1] -> [...] (nats), of log x or of x."""
        x = x[..., 0]
        if self.in_log:
            return 2 * x - bounded_exp(x)
        inside = torch.where(x > 0, x, 1.0)  # nothing outside the support may reach the logarithm, nor its gradient
        return torch.where(x > 0, inside.log() - inside, -math.inf)

    def score(self, x: Tensor) -> Tensor:
        """2 - exp(y) or 1 / x - 1; [..., 1] -> [..., 1]."""
        if self.in_log:
            return 2 - bounded_exp_slope(x)
        return torch.where(x > 0, 1 / torch.where(x > 0, x, 1.0) - 1, 0.0)

    def sample(self, n: int, generator: Generator) -> Tensor:
        """n exact draws of x, [n, 1] (CPU, float32): the sum of two unit exponentials."""
        u = torch.rand(n, 2, generator=generator, dtype=torch.float64)
        return -torch.log1p(-u).sum(1, keepdim=True).float()
