"""The three 2-D toys of the semi-implicit literature (UIVI, SIVI-SM, KSIVI), as their code defines them.

``window`` is both the plot window and the box of the grid metrics, so it holds more than 99.99 % of the mass; the
papers plot the banana in x2 in [-6, 1] only, which would cut off 4 % of it.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from bench.registry import register
from targets.base import Target
from targets.mixture import GaussianMixture

TOY_METRICS: tuple[str, ...] = (
    "js_grid",
    "js_hist",
    "kl_forward_grid",
    "kl_reverse_grid",
    "sliced_w1",
    "sliced_w2",
    "mmd",
    "ksd",
)
SOURCE = "definition in the code of UIVI / SIVI-SM (Yu & Zhang 2023) / KSIVI (Cheng et al. 2024)"


@register("target", "banana", source=SOURCE)
class Banana(Target):
    """Banana: v ~ N(0, [[1, .9], [.9, 1]]), x = (v1, v2 - v1^2 - 1); entropy 1 + ln 2 pi + ln(.19)/2 = 2.0075 nats.

    KSIVI and later papers print the mirror image x2 = v1^2 + v2 + 1; their code uses this form.
    """

    dim = 2
    log_z = 0.0
    metrics = TOY_METRICS
    curve_metric = "js_grid"
    window = ((-4.5, 4.5), (-24.0, 1.5))

    rho = 0.9
    variance = 1.0 - rho**2  # of w given x1, and the determinant of the covariance

    def _residuals(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x1 and w - rho x1 with w = x1^2 + x2 + 1, each [...]."""
        x1, x2 = x[..., 0], x[..., 1]
        return x1, x1.square() + x2 + 1.0 - self.rho * x1

    def log_prob(self, x: Tensor) -> Tensor:
        """log N(x1; 0, 1) + log N(w; rho x1, 1 - rho^2); [..., 2] -> [...] (nats)."""
        x1, residual = self._residuals(x)
        constant = math.log(2 * math.pi) + 0.5 * math.log(self.variance)
        return -0.5 * (x1.square() + residual.square() / self.variance) - constant

    def score(self, x: Tensor) -> Tensor:
        """Closed form; [..., 2] -> [..., 2]."""
        x1, residual = self._residuals(x)
        g2 = -residual / self.variance
        return torch.stack((-x1 + (2.0 * x1 - self.rho) * g2, g2), dim=-1)

    def sample(self, n: int, generator: Generator) -> Tensor:
        """n exact draws, [n, 2] (CPU, float32)."""
        z = torch.randn(n, 2, generator=generator, dtype=torch.float64)
        v1 = z[:, 0]
        v2 = self.rho * v1 + math.sqrt(self.variance) * z[:, 1]
        return torch.stack((v1, v2 - v1.square() - 1.0), dim=-1).float()


@register("target", "multimodal", source=SOURCE)
class Multimodal(GaussianMixture):
    """Two modes: N((-2, 0), I) / 2 + N((2, 0), I) / 2."""

    metrics = TOY_METRICS
    curve_metric = "js_grid"
    window = ((-7.0, 7.0), (-5.0, 5.0))

    def __init__(self) -> None:
        identity = [[1.0, 0.0], [0.0, 1.0]]
        super().__init__([[-2.0, 0.0], [2.0, 0.0]], [identity, identity])


@register("target", "x_shaped", source=SOURCE)
class XShaped(GaussianMixture):
    """A cross: N(0, [[2, 1.8], [1.8, 2]]) / 2 + N(0, [[2, -1.8], [-1.8, 2]]) / 2."""

    metrics = TOY_METRICS
    curve_metric = "js_grid"
    window = ((-6.5, 6.5), (-6.5, 6.5))

    def __init__(self) -> None:
        super().__init__([[0.0, 0.0], [0.0, 0.0]], [[[2.0, 1.8], [1.8, 2.0]], [[2.0, -1.8], [-1.8, 2.0]]])
