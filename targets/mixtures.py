"""Two-dimensional Gaussian mixtures beyond the three core toys."""

from __future__ import annotations

import math

from bench.registry import register
from targets.mixture import GaussianMixture
from targets.toys import TOY_METRICS, XShaped

IDENTITY = [[1.0, 0.0], [0.0, 1.0]]


@register("target", "8_gaussians", source="definition used by the StatComp study of semi-implicit methods")
class EightGaussians(GaussianMixture):
    """Eight Gaussians of standard deviation 0.5 and equal weight on the circle of radius 4, the first at (4, 0)."""

    metrics = TOY_METRICS
    curve_metric = "js_grid"
    window = ((-7.0, 7.0), (-7.0, 7.0))

    radius, sd = 4.0, 0.5

    def __init__(self) -> None:
        angles = [k * math.pi / 4 for k in range(8)]
        variance = self.sd**2
        super().__init__(
            [[self.radius * math.cos(a), self.radius * math.sin(a)] for a in angles],
            [[[variance, 0.0], [0.0, variance]]] * 8,
        )


@register("target", "multimodal_pvi", source="Lim & Johansen 2024 (PVI), arXiv:2407.00649")
class MultimodalPVI(GaussianMixture):
    """Four modes of PVI: weights 1/8, 1/8, 1/2, 1/4 at (2, 2), (-2, -2), (2, -2), (-2, 2), each with covariance I.

    The covariance of the components is an assumption: no source at hand records it.
    """

    metrics = (*TOY_METRICS, "sliced_w_pot")
    curve_metric = "js_grid"
    window = ((-7.5, 7.5), (-7.5, 7.5))

    def __init__(self) -> None:
        super().__init__(
            [[2.0, 2.0], [-2.0, -2.0], [2.0, -2.0], [-2.0, 2.0]], [IDENTITY] * 4, [0.125, 0.125, 0.5, 0.25]
        )


@register("target", "x_shaped_pvi", source="Lim & Johansen 2024 (PVI), arXiv:2407.00649")
class XShapedPVI(XShaped):
    """X-shape of PVI: as far as known the same density as ``x_shaped``, kept apart until that is certain."""

    metrics = (*TOY_METRICS, "sliced_w_pot")
