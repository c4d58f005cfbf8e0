"""A correlated Gaussian target for tests of the engine and the methods."""

from __future__ import annotations

import math

import torch

from targets.base import Target
from targets.diffusion.noised import Diffusable
from targets.diffusion.schedule import column

MEAN = torch.ones(2)
COVARIANCE = torch.tensor([[1.0, 0.6], [0.6, 1.0]])


class Gaussian(Diffusable):
    """N((1, 1), [[1, .6], [.6, 1]]), unnormalised."""

    dim = 2
    log_z = math.log(2 * math.pi) + 0.5 * math.log(1 - 0.6**2)

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("precision", torch.linalg.inv(COVARIANCE))
        variances, axes = torch.linalg.eigh(COVARIANCE)
        self.register_buffer("variances", variances)
        self.register_buffer("axes", axes)

    def log_prob(self, x):
        y = x - 1.0
        return -0.5 * ((y @ self.precision) * y).sum(-1)

    def score(self, x):
        return -(x - 1.0) @ self.precision

    def noised_score(self, x, alpha, sigma):
        alpha, sigma = column(alpha, x), column(sigma, x)
        along = (x - alpha) @ self.axes
        return -(along / (alpha.square() * self.variances + sigma.square())) @ self.axes.T

    def sample(self, n, generator):
        """n exact draws, [n, 2]."""
        return 1.0 + torch.randn(n, 2, generator=generator) @ torch.linalg.cholesky(COVARIANCE).T


class Drawless(Gaussian):
    """The same, without draws."""

    sample = Target.sample
