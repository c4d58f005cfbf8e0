"""A product of standard Laplace laws: as a Gaussian scale mixture, the yardstick of bounds on log q."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from bench.checks import require_positive
from bench.registry import register
from targets.base import Target


@register("target", "laplace_scale_mixture", source="Sobolev & Vetrov 2019, arXiv:1905.03290 (toy, D = 10 and 50)")
class LaplaceScaleMixture(Target):
    """prod_i 1/2 exp(-|x_i|) = prod_i of the integral of N(x_i; 0, psi_i) Exp(psi_i; 1/2); entropy D (1 + ln 2) nats.

    Meant for the accuracy of bounds on log q (method ``iwhvi_scale_mixture`` with ``train_q=false`` has it as its q).

    Args:
        dim: D.
    """

    log_z = 0.0
    metrics = ("log_q_gap", "elbo_lower", "elbo_upper", "entropy_lower", "entropy_upper", "sliced_w2")
    curve_metric = "sliced_w2"

    def __init__(self, *, dim: int = 50) -> None:
        super().__init__()
        require_positive("target", dim=dim)
        self.dim = dim
        self.entropy = dim * (1 + math.log(2))

    def log_prob(self, x: Tensor) -> Tensor:
        """-sum |x_i| - D log 2; [..., d] -> [...] (nats)."""
        return -x.abs().sum(-1) - self.dim * math.log(2)

    def score(self, x: Tensor) -> Tensor:
        """-sign(x); [..., d] -> [..., d]."""
        return -torch.sign(x)

    def sample(self, n: int, generator: Generator) -> Tensor:
        """n exact draws, [n, d] (CPU, float32)."""
        u = torch.rand(n, self.dim, generator=generator, dtype=torch.float64) - 0.5
        return (-torch.sign(u) * torch.log1p(-2 * u.abs())).float()
