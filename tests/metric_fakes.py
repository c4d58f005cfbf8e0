"""Gaussian targets and methods whose every metric has a closed form."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal

from bench.metrics.base import Fitted
from methods.base import Method
from targets.base import Target


class GaussianTarget(Target):
    """N(mean, diag(sd^2)), unnormalised, with an exact sampler."""

    def __init__(self, mean=(0.0, 0.0), sd=(1.0, 1.0), half_width: float = 9.0) -> None:
        super().__init__()
        self.dim = len(mean)
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("sd", torch.tensor(sd))
        self.log_z = self.dim / 2 * math.log(2 * math.pi) + sum(map(math.log, sd))
        self.window = ((-half_width, half_width),) * 2 if self.dim == 2 else None

    def log_prob(self, x: Tensor) -> Tensor:
        return -0.5 * ((x - self.mean) / self.sd).square().sum(-1)

    def sample(self, n, generator):
        draws = torch.randn(n, self.dim, generator=generator).to(self.mean.device)
        return self.mean + self.sd * draws


class PosteriorTarget(GaussianTarget):
    """With test data: y ~ N(x_1, 1)."""

    test_y = torch.tensor([-1.0, 0.0, 2.5])

    def test_log_predictive(self, x: Tensor) -> Tensor:
        log_p = Normal(x[:, :1], 1.0, validate_args=False).log_prob(self.test_y.to(x.device))
        return (torch.logsumexp(log_p, 0) - math.log(len(x))).mean()


class HalfPlaneTarget(GaussianTarget):
    """N(0, I) restricted to x1 > 0: p is zero where a Gaussian q is not."""

    def log_prob(self, x):
        return torch.where(x[..., 0] > 0, super().log_prob(x) + math.log(2), -math.inf)


class StoredTarget(Target):
    """Nothing but a density without normaliser and a stored reference."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.dim, self.rows = rows.shape[1], rows

    def log_prob(self, x):
        return -0.5 * x.square().sum(-1)

    def reference(self):
        return self.rows


class Implicit(Method):
    """N(mean, diag(sd^2)) that can only be sampled."""

    def __init__(self, target, mean=(0.0, 0.0), sd=(1.0, 1.0)) -> None:
        super().__init__(target)
        self.mean, self.sd = torch.nn.Parameter(torch.tensor(mean)), torch.nn.Parameter(torch.tensor(sd))

    def sample(self, n, noise):
        return self.mean + self.sd * noise.normal(n, len(self.mean))


class Explicit(Implicit):
    """The same with its density."""

    def log_prob(self, x):
        # Unchecked arguments: a NaN parameter must reach the metrics (importing zuko switches checks off anyway).
        return Normal(self.mean, self.sd, validate_args=False).log_prob(x).sum(-1)


class SemiImplicit(Implicit):
    """The same law as a mixture: x | z ~ N(mean + 0.8 sd z, (0.6 sd)^2), z ~ N(0, I)."""

    full = False
    mixing_calls = 0

    def mixing(self, n, noise):
        self.mixing_calls += 1
        return noise.normal(n, len(self.mean))

    def conditional(self, z):
        loc, scale = self.mean + 0.8 * self.sd * z, 0.6 * self.sd
        if self.full:
            return MultivariateNormal(loc, scale_tril=scale.diag())
        return Independent(Normal(loc, scale), 1)


def fitted(method=Explicit, target=None, seed: int = 0, **kwargs) -> Fitted:
    """``method`` with ``kwargs`` beside ``target`` (a standard Gaussian if None)."""
    target = GaussianTarget() if target is None else target
    return Fitted(method(target, **kwargs), target, seed)
