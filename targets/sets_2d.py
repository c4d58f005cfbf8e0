"""The 2-D sample sets of the diffusion literature as densities: swiss roll, circles, moons, pinwheel.

Shapes and noise are those of FFJORD's toy data (its ``lib/toy_data.py``, after scikit-learn's generators), except that

- every set is a continuous law with exact independent draws (scikit-learn puts points on fixed angles);
- every set is centred and divided by one number, so that its mean coordinate variance is 1, as a variance-preserving
  diffusion wants it (FFJORD's circles are 1.69 times larger, its pinwheel about twice);
- the pinwheel's noise is isotropic, so that its noised marginals are known.

Published values on sets of these names (HSIVI's four, of unknown definition) are therefore not comparable.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from bench.registry import register
from targets.curve import BlurredCurve, legendre, uniform

SOURCE = "shape and noise of FFJORD's toy data (Grathwohl et al. 2019, arXiv:1810.01367), rescaled"


@register("target", "swissroll", source=SOURCE)
class SwissRoll(BlurredCurve):
    """Swiss roll: c(u) = t (cos t, sin t) / 5 with t = 3 pi (1 + 2u) / 2, u uniform, noise .2, at unit scale."""

    sd = 0.2
    window = ((-2.7, 2.6), (-2.7, 3.0))

    def _curve(self, u: Tensor) -> Tensor:
        t = 1.5 * math.pi * (1 + 2 * u)
        return torch.stack((t.cos(), t.sin()), dim=-1) * t[:, None] / 5

    def nodes(self) -> tuple[Tensor, Tensor]:
        u, weights = legendre(160)
        return self._curve(u), weights

    def places(self, n: int, generator: Generator) -> Tensor:
        return self._curve(uniform(n, generator))


@register("target", "circles", source=SOURCE)
class Circles(BlurredCurve):
    """Two circles of radii 3 and 1.5 about one centre, each half of the mass, noise .24, at unit scale."""

    sd = 0.24
    window = ((-2.6, 2.6), (-2.6, 2.6))
    radii = (3.0, 1.5)

    def nodes(self) -> tuple[Tensor, Tensor]:
        places = []
        for radius, count in zip(self.radii, (108, 54), strict=True):
            angle = 2 * math.pi * torch.arange(count, dtype=torch.float64) / count
            places.append(radius * torch.stack((angle.cos(), angle.sin()), dim=-1))
        weights = [torch.full((len(part),), 0.5 / len(part), dtype=torch.float64) for part in places]
        return torch.cat(places), torch.cat(weights)

    def places(self, n: int, generator: Generator) -> Tensor:
        inner = uniform(n, generator) < 0.5
        radius = torch.where(inner, self.radii[1], self.radii[0]).double()
        angle = 2 * math.pi * uniform(n, generator)
        return radius[:, None] * torch.stack((angle.cos(), angle.sin()), dim=-1)


@register("target", "moons", source=SOURCE)
class Moons(BlurredCurve):
    """Two half circles of radius 2 hooked into each other, each half of the mass, noise .2, at unit scale."""

    sd = 0.2
    window = ((-3.0, 3.0), (-2.0, 2.0))

    def _curve(self, u: Tensor, upper: Tensor) -> Tensor:
        angle = math.pi * u
        x = torch.where(upper, angle.cos(), 1 - angle.cos())
        y = torch.where(upper, angle.sin(), 0.5 - angle.sin())
        return 2 * torch.stack((x, y), dim=-1)

    def nodes(self) -> tuple[Tensor, Tensor]:
        u, weights = legendre(80)
        upper = torch.arange(160) < 80
        return self._curve(u.repeat(2), upper), 0.5 * weights.repeat(2)

    def places(self, n: int, generator: Generator) -> Tensor:
        upper = uniform(n, generator) < 0.5
        return self._curve(uniform(n, generator), upper)


@register("target", "pinwheel", source="five arms as in Johnson et al. 2016 (arXiv:1603.06277), isotropic noise")
class Pinwheel(BlurredCurve):
    """Pinwheel: five arms r (cos a, sin a), r ~ N(1, .3^2), a = 2 pi j / 5 + exp(r) / 4, noise .1, at unit scale.

    The usual generator adds noise across the arms only; here it is isotropic.
    """

    sd = 0.1
    window = ((-3.4, 3.4), (-3.4, 3.4))
    arms, radial_sd, rate = 5, 0.3, 0.25
    reach = 5.0
    """Nodes reach so many standard deviations of r to both sides."""
    version = 2  # the nodes were too far apart on the outer arms

    def _curve(self, r: Tensor, arm: Tensor) -> Tensor:
        angle = 2 * math.pi * arm / self.arms + self.rate * r.exp()
        return r[:, None] * torch.stack((angle.cos(), angle.sin()), dim=-1)

    def nodes(self) -> tuple[Tensor, Tensor]:
        z = torch.linspace(-self.reach, self.reach, 160, dtype=torch.float64)
        r, weights = 1 + self.radial_sd * z, torch.exp(-0.5 * z.square())
        arm = torch.arange(self.arms, dtype=torch.float64).repeat_interleave(len(z))
        return self._curve(r.repeat(self.arms), arm), weights.repeat(self.arms)

    def places(self, n: int, generator: Generator) -> Tensor:
        r = 1 + self.radial_sd * torch.randn(n, generator=generator, dtype=torch.float64)
        arm = torch.randint(self.arms, (n,), generator=generator).double()
        return self._curve(r, arm)
