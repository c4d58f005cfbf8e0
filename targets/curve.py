"""A curve blurred by Gaussian noise: a 2-D density, its score and its noised marginals from one quadrature."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Generator, Tensor

from targets.diffusion.noised import Diffusable
from targets.diffusion.schedule import Level, column

SET_METRICS = ("js_sets", "sliced_w2", "mmd", "nfe")
"""Metrics of the 2-D sample sets."""


class BlurredCurve(Diffusable):
    """x = (c(u) + sd xi - centre) / scale: u along a curve c, xi ~ N(0, I); mean 0, mean coordinate variance 1.

    The integral over u is replaced by ``nodes()``: sum_k w_k N(x; m_k, s^2 I).  The nodes are closer than the
    standard deviation of the blur, where such a sum converges exponentially, so density and score are exact to
    float32 wherever there is mass; noise makes the components wider and the sum better.  Draws take u from its
    own law, not from the nodes.

    Args:
        teacher: id or path of a trained diffusion teacher (`sivibench teacher toy`); "" for the exact one.
    """

    dim = 2
    added = {"teacher": ""}
    log_z = 0.0
    metrics = SET_METRICS
    curve_metric = "js_sets"

    sd: ClassVar[float]
    """Standard deviation of the blur before scaling."""

    means: Tensor
    log_weights: Tensor

    def __init__(self, *, teacher: str = "") -> None:
        super().__init__()
        self.teacher_id = teacher
        places, weights = self.nodes()
        weights = weights / weights.sum()
        self.centre = tuple((weights[:, None] * places).sum(0).tolist())
        offsets = places - torch.tensor(self.centre, dtype=torch.float64)
        self.scale = math.sqrt(0.5 * float((weights * offsets.square().sum(1)).sum()) + self.sd**2)
        dtype = torch.get_default_dtype()
        self.register_buffer("means", (offsets / self.scale).to(dtype))
        self.register_buffer("log_weights", weights.log().to(dtype))

    def nodes(self) -> tuple[Tensor, Tensor]:
        """Places c(u_k), [K, 2], and their weights, [K], of a quadrature over the law of u (float64)."""
        raise NotImplementedError

    def places(self, n: int, generator: Generator) -> Tensor:
        """n independent draws of c(u), [n, 2] (float64)."""
        raise NotImplementedError

    def _components(self, x: Tensor, alpha: Level, sigma: Level) -> tuple[Tensor, Tensor, Tensor]:
        """log w_k - |x - alpha m_k|^2 / 2v, [..., K], with alpha and v, [..., 1]."""
        a = column(alpha, x)
        v = a.square() * (self.sd / self.scale) ** 2 + column(sigma, x).square()
        # by differences: |x|^2 - 2 a x'm + a^2 |m|^2 would lose digits far from the curve
        means = a.unsqueeze(-1) * self.means
        squared = (x[..., 0:1] - means[..., 0]).square() + (x[..., 1:2] - means[..., 1]).square()
        return self.log_weights - squared / (2 * v), a, v

    def noised_log_prob(self, x: Tensor, alpha: Level, sigma: Level) -> Tensor:
        """Log density of alpha x_0 + sigma eps; [..., 2] -> [...] (nats)."""
        log_joint, _, v = self._components(x, alpha, sigma)
        return torch.logsumexp(log_joint, dim=-1) - (2 * math.pi * v).log().squeeze(-1)

    def noised_score(self, x: Tensor, alpha: Level, sigma: Level) -> Tensor:
        """(alpha E[m | x] - x) / v; [..., 2] -> [..., 2]."""
        log_joint, a, v = self._components(x, alpha, sigma)
        return (a * (torch.softmax(log_joint, dim=-1) @ self.means) - x) / v

    def log_prob(self, x: Tensor) -> Tensor:
        """Normalised log density; [..., 2] -> [...] (nats)."""
        return self.noised_log_prob(x, 1.0, 0.0)

    def score(self, x: Tensor) -> Tensor:
        """Closed form; [..., 2] -> [..., 2]."""
        return self.noised_score(x, 1.0, 0.0)

    def sample(self, n: int, generator: Generator) -> Tensor:
        """n exact draws, [n, 2] (CPU, float32)."""
        x = self.places(n, generator) + self.sd * torch.randn(n, 2, generator=generator, dtype=torch.float64)
        return ((x - torch.tensor(self.centre, dtype=torch.float64)) / self.scale).float()


def uniform(n: int, generator: Generator) -> Tensor:
    """n draws from U[0, 1), float64."""
    return torch.rand(n, generator=generator, dtype=torch.float64)


def legendre(k: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of Gauss-Legendre quadrature over [0, 1], [k] each (float64)."""
    from numpy.polynomial.legendre import leggauss

    nodes, weights = leggauss(k)
    return torch.from_numpy(0.5 * (nodes + 1)), torch.from_numpy(0.5 * weights)
