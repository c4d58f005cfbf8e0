"""The checkerboard: uniform on eight squares; its noised marginals are products of normal probabilities."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from bench.registry import register
from targets.curve import SET_METRICS, uniform
from targets.diffusion.noised import Diffusable
from targets.diffusion.schedule import Level, column

ROOT2 = math.sqrt(2.0)


def interval(distance: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """log P(|Z - d| < h) of Z ~ N(0, 1) and minus its derivative in d, for signed distances d and half widths h > 0.

    P = Phi(d + h) - Phi(d - h).  Outside (|d| > h) the common factor exp(-(|d| - h)^2 / 2) is taken out and the rest
    written with the scaled complementary error function, so that the range of float32 is not left.  Small h
    costs digits: P is a difference, with a relative error of about 1e-7 / h (h = 2e-5 where the cosine schedule ends).

    Returns:
        log P and (phi(d - h) - phi(d + h)) / P, both of the common shape.
    """
    far = distance.abs() > half
    # each branch sees harmless values where the other one counts: NaN times zero would poison gradients
    d = torch.where(far, distance.abs(), half + 1)
    near, product = d - half, 2 * d * half  # product = ((d + h)^2 - (d - h)^2) / 2
    tail = torch.special.erfcx(near / ROOT2) - torch.special.erfcx((d + half) / ROOT2) * torch.exp(-product)
    log_far = (0.5 * tail).log() - 0.5 * near.square()
    slope_far = torch.sign(distance) * (2 / math.sqrt(2 * math.pi)) * -torch.expm1(-product) / tail

    d = torch.where(far, torch.zeros_like(distance), distance)
    mass = 0.5 * (torch.erf((d + half) / ROOT2) - torch.erf((d - half) / ROOT2))
    density = [torch.exp(-0.5 * edge.square()) / math.sqrt(2 * math.pi) for edge in (d - half, d + half)]
    return torch.where(far, log_far, mass.log()), torch.where(far, slope_far, (density[0] - density[1]) / mass)


@register(
    "target", "checkerboard", source="FFJORD's toy data (Grathwohl et al. 2019, arXiv:1810.01367), at unit variance"
)
class Checkerboard(Diffusable):
    """Checkerboard: uniform on 8 of the 16 cells of [-sqrt 3, sqrt 3]^2, the lower left one included; variance 1.

    The density is 0 or 1 / 6, so there is no score, and ``log_prob`` is left out; noised marginals are exact.

    Args:
        teacher: id or path of a trained diffusion teacher (`sivibench teacher toy`); "" for the exact one.
    """

    dim = 2
    added = {"teacher": ""}
    metrics = SET_METRICS
    curve_metric = "js_sets"
    half_width = math.sqrt(3.0)
    window = ((-1.8, 1.8), (-1.8, 1.8))

    def __init__(self, *, teacher: str = "") -> None:
        super().__init__()
        self.teacher_id = teacher

    def _axis(self, x: Tensor, alpha: Level, sigma: Level) -> tuple[Tensor, Tensor, Tensor]:
        """Per axis and interval: log of N(x; alpha y, sigma^2) averaged over y in it, and the slope; [..., 2, 4] each.

        The third is sigma, [..., 1].
        """
        a, s = column(alpha, x), column(sigma, x)
        cell = self.half_width / 2
        centres = [self.half_width * (2 * i - 3) / 4 for i in range(4)]
        distance = torch.stack([(x - a * centre) / s for centre in centres], dim=-1)
        half = (0.5 * cell * a / s).unsqueeze(-1)
        log_mass, slope = interval(distance, half)
        return log_mass - (a * cell).log().unsqueeze(-1), slope, s

    def _parity(self, log_mass: Tensor) -> Tensor:
        """log sums over the intervals of equal parity, [..., 2 axes, 4] -> [..., 2 axes, 2 parities]."""
        return torch.stack([torch.logaddexp(log_mass[..., p], log_mass[..., p + 2]) for p in (0, 1)], dim=-1)

    def noised_log_prob(self, x: Tensor, alpha: Level, sigma: Level) -> Tensor:
        """Log density of alpha x_0 + sigma eps, sigma > 0; [..., 2] -> [...] (nats)."""
        log_mass, _, _ = self._axis(x, alpha, sigma)
        both = self._parity(log_mass).sum(-2)
        return torch.logaddexp(both[..., 0], both[..., 1]) - math.log(8)

    def noised_eps(self, x: Tensor, alpha: Level, sigma: Level) -> Tensor:
        """-sigma times the score: the slopes averaged over the squares' posterior; [..., 2] -> [..., 2]."""
        log_mass, slope, _ = self._axis(x, alpha, sigma)
        parity = self._parity(log_mass)
        posterior = torch.softmax(parity.sum(-2), dim=-1)  # of both indices even, both odd
        within = torch.exp(log_mass.unflatten(-1, (2, 2)) - parity.unsqueeze(-2))  # [..., axis, which, parity]
        return ((within * slope.unflatten(-1, (2, 2))).sum(-2) * posterior.unsqueeze(-2)).sum(-1)

    def noised_score(self, x: Tensor, alpha: Level, sigma: Level) -> Tensor:
        """Its gradient; [..., 2] -> [..., 2]."""
        return -self.noised_eps(x, alpha, sigma) / column(sigma, x)

    def sample(self, n: int, generator: Generator) -> Tensor:
        """n exact draws, [n, 2] (CPU, float32)."""
        parity, first, second = (torch.randint(2, (n,), generator=generator) for _ in range(3))
        index = torch.stack((parity + 2 * first, parity + 2 * second), dim=-1)
        inside = torch.stack((uniform(n, generator), uniform(n, generator)), dim=-1)
        return (self.half_width * ((index + inside) / 2 - 1)).float()
