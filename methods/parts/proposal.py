"""The learned proposal of KPG-IS for the reverse conditional q(z | x): a mixture of the prior and a Gaussian."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.parts.families import mlp

SD_FLOOR = 1e-6
"""Added to the proposal's standard deviation, so that its logarithm stays finite."""


class MixtureProposal(nn.Module):
    """tau(z | x) = alpha(x) N(z; 0, I) + (1 - alpha(x)) N(z; m(x), diag s(x)^2)  (Pielok et al. 2025, 2506.05088).

    alpha = alpha_min + (alpha_max - alpha_min) sigmoid(.) bounds the importance weights by 1 / alpha_min;
    s = softplus(.).  One ReLU network with a linear head for (m, s, alpha).

    Args:
        dim: d, dimension of x.
        noise_dim: k, dimension of z.
        hidden: hidden layer sizes.
        alpha_min: smallest share of the prior.
        alpha_max: largest share of the prior.
    """

    def __init__(self, dim: int, noise_dim: int, hidden: tuple[int, ...], alpha_min: float, alpha_max: float) -> None:
        super().__init__()
        self.noise_dim, self.alpha_min, self.alpha_max = noise_dim, alpha_min, alpha_max
        self.net = mlp(dim, hidden, 2 * noise_dim + 1, "relu")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """m, s and alpha at x [..., d]: [..., k], [..., k] and [..., 1]."""
        m, s, a = self.net(x).split((self.noise_dim, self.noise_dim, 1), dim=-1)
        return m, F.softplus(s) + SD_FLOOR, self.alpha_min + (self.alpha_max - self.alpha_min) * torch.sigmoid(a)

    def log_prob(self, z: Tensor, x: Tensor) -> Tensor:
        """log tau(z | x) at pairs z [..., k], x [..., d] -> [...] (nats)."""
        m, s, alpha = self(x)
        log_prior = -0.5 * z.square().sum(-1)
        log_gauss = -0.5 * ((z - m) / s).square().sum(-1) - s.log().sum(-1)
        mixture = torch.logaddexp(alpha[..., 0].log() + log_prior, torch.log1p(-alpha[..., 0]) + log_gauss)
        return mixture - 0.5 * z.shape[-1] * math.log(2 * math.pi)


def prior_over_mixture(log_odds: Tensor, alpha: Tensor) -> Tensor:
    """q(z) / tau(z | x) = 1 / (alpha + (1 - alpha) exp(log_odds)) with log_odds = log N(z; m, s^2) - log q(z).

    Between 0 and 1 / alpha; an overflowing exponential gives the right limit 0.
    """
    return 1 / (alpha + (1 - alpha) * log_odds.exp())


def slots(latents: int, alpha_min: float, miss: float = 1e-12) -> int:
    """How many draws of the Gaussian one x needs at most: the smallest c with P(Binomial(l, 1 - alpha_min) > c) < miss.

    A static number, whereas the number used is random; beyond it draws are left out, which changes no figure.
    """
    p, total = 1 - alpha_min, 0.0
    if p >= 1:
        return latents
    for c in range(latents, 0, -1):  # add the probabilities from the top until they are felt
        log_choose = math.lgamma(latents + 1) - math.lgamma(c + 1) - math.lgamma(latents - c + 1)
        total += math.exp(log_choose + c * math.log(p) + (latents - c) * math.log1p(-p))
        if total >= miss:
            return c
    return 1
