"""The other bananas of the literature; ``targets.toys.Banana`` is the one in the code of UIVI, SIVI-SM and KSIVI."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from bench.registry import register
from targets.base import Target
from targets.toys import TOY_METRICS


class QuadraticBanana(Target):
    """x1 ~ N(0, variance1) and x2 | x1 ~ N(curvature x1^2 + slope x1 + offset, variance2); normalised.

    Class attributes of that name define a banana; entropy 1 + ln 2 pi + ln(variance1 variance2) / 2 nats.
    """

    dim = 2
    log_z = 0.0
    metrics = TOY_METRICS
    curve_metric = "js_grid"

    variance1: float
    variance2: float
    curvature: float
    slope: float
    offset: float

    def _ridge(self, x1: Tensor) -> Tensor:
        return self.curvature * x1.square() + self.slope * x1 + self.offset

    def log_prob(self, x: Tensor) -> Tensor:
        """log N(x1) + log N(x2 | x1); [..., 2] -> [...] (nats)."""
        x1, residual = x[..., 0], x[..., 1] - self._ridge(x[..., 0])
        constant = math.log(2 * math.pi) + 0.5 * math.log(self.variance1 * self.variance2)
        return -0.5 * (x1.square() / self.variance1 + residual.square() / self.variance2) - constant

    def score(self, x: Tensor) -> Tensor:
        """Closed form; [..., 2] -> [..., 2]."""
        x1, residual = x[..., 0], x[..., 1] - self._ridge(x[..., 0])
        pull = residual / self.variance2
        return torch.stack((-x1 / self.variance1 + (2 * self.curvature * x1 + self.slope) * pull, -pull), dim=-1)

    def sample(self, n: int, generator: Generator) -> Tensor:
        """n exact draws, [n, 2] (CPU, float32)."""
        noise = torch.randn(n, 2, generator=generator, dtype=torch.float64)
        x1 = math.sqrt(self.variance1) * noise[:, 0]
        return torch.stack((x1, self._ridge(x1) + math.sqrt(self.variance2) * noise[:, 1]), dim=-1).float()


@register("target", "banana_mirror", source="formula printed in KSIVI (Cheng et al. 2024), KPG and AISIVI")
class BananaMirror(QuadraticBanana):
    """Banana as printed: v ~ N(0, [[1, .9], [.9, 1]]), x = (v1, v1^2 + v2 + 1); opens upwards.

    The code behind those papers uses ``banana``, x = (v1, v2 - v1^2 - 1).
    """

    variance1, variance2 = 1.0, 1.0 - 0.9**2
    curvature, slope, offset = 1.0, 0.9, 1.0
    window = ((-4.5, 4.5), (-1.5, 24.0))


@register("target", "banana_pvi", source="Lim & Johansen 2024 (PVI), arXiv:2407.00649, after Yin & Zhou 2018 (SIVI)")
class BananaPVI(QuadraticBanana):
    """Banana of SIVI and PVI: N(x1; 0, 4) N(x2; x1^2 / 4, 1), second arguments being variances.

    The papers print N(x1; 0, 2), where 2 is the standard deviation.
    """

    variance1, variance2 = 4.0, 1.0
    curvature, slope, offset = 0.25, 0.0, 0.0
    metrics = (*TOY_METRICS, "sliced_w_pot")
    window = ((-9.0, 9.0), (-4.5, 25.0))
