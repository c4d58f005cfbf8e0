"""Posteriors whose prior is semi-implicit, p(x) = int p(x | zeta) p(zeta) dzeta, and the logistic one with a t prior.

DSIVI needs only draws of zeta and p(x | zeta).  Here the marginal prior is known too, so its bound can be checked.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.checks import require_positive
from bench.errors import UserError
from bench.registry import register
from targets.base import Noise, Target
from targets.blr import BreastCancer


class SemiImplicitPrior(Target):
    """A posterior likelihood(x) * p(x) with p(x) = int p(x | zeta) p(zeta) dzeta."""

    def data_log_prob(self, x: Tensor) -> Tensor:
        """log p(data | x); [..., d] -> [...] (nats)."""
        raise NotImplementedError

    def prior_mixing(self, n: int, noise: Noise) -> Tensor:
        """n draws of zeta, [n, ...]."""
        raise NotImplementedError

    def prior_conditional(self, x: Tensor, zeta: Tensor) -> Tensor:
        """log p(x_j | zeta_k) for all pairs; [J, d], [K, ...] -> [J, K] (nats)."""
        raise NotImplementedError


@register(
    "target",
    "blr_breast_cancer_t",
    source="the data of blr_breast_cancer; prior as in Molchanov et al. 2019, arXiv:1810.02789 (semi-implicit)",
)
class BreastCancerT(SemiImplicitPrior):
    """Logistic regression on breast cancer with a multivariate Student-t prior, a scale mixture of Gaussians.

    beta | zeta ~ N(0, zeta I / prior_precision), zeta = nu / chi^2_nu: beta is multivariate t with nu degrees of
    freedom, whose density ``log_prob`` uses.  One zeta for all coefficients, so few draws of it bound the prior well.

    Args:
        degrees: nu, a whole number.
        prior_precision: alpha of the Gaussian scale.
    """

    metrics = ("test_log_predictive", "elbo_lower", "elbo_upper", "elbo_error", "log_q_gap", "ksd")
    curve_metric = "test_log_predictive"

    def __init__(self, *, degrees: int = 4, prior_precision: float = 1.0) -> None:
        super().__init__()
        require_positive("target", degrees=degrees)
        if degrees != int(degrees):
            raise UserError(f"target.degrees={degrees} is not a whole number", "zeta is drawn from that many squares")
        self.data = BreastCancer(prior_precision=prior_precision)
        self.dim, self.degrees, self.prior_precision = self.data.dim, degrees, prior_precision

    def data_log_prob(self, x: Tensor) -> Tensor:
        return F.logsigmoid(x @ self.data.signed_design.T).sum(-1)

    def log_prior(self, x: Tensor) -> Tensor:
        """log density of the multivariate t; [..., d] -> [...]."""
        nu, d, alpha = self.degrees, self.dim, self.prior_precision
        constant = math.lgamma((nu + d) / 2) - math.lgamma(nu / 2) + 0.5 * d * math.log(alpha / (nu * math.pi))
        return constant - 0.5 * (nu + d) * torch.log1p(alpha * x.square().sum(-1) / nu)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log likelihood plus log t prior; [..., d] -> [...] (nats)."""
        return self.data_log_prob(x) + self.log_prior(x)

    def score(self, x: Tensor) -> Tensor:
        """Z' sigmoid(-Z beta) - (nu + d) alpha beta / (nu + alpha |beta|^2); [..., d] -> [..., d]."""
        likelihood = torch.sigmoid(-(x @ self.data.signed_design.T)) @ self.data.signed_design
        pull = (self.degrees + self.dim) * self.prior_precision
        return likelihood - pull * x / (self.degrees + self.prior_precision * x.square().sum(-1, keepdim=True))

    def test_log_predictive(self, x: Tensor) -> Tensor:
        return self.data.test_log_predictive(x)

    def prior_mixing(self, n: int, noise: Noise) -> Tensor:
        """n draws of zeta = nu / chi^2_nu, [n]."""
        return self.degrees / noise.normal(n, self.degrees).square().sum(1)

    def prior_conditional(self, x: Tensor, zeta: Tensor) -> Tensor:
        """log N(x_j; 0, zeta_k I / alpha); [J, d], [K] -> [J, K]."""
        precision = self.prior_precision / zeta
        log_det = 0.5 * self.dim * (precision.log() - math.log(2 * math.pi))
        return log_det - 0.5 * precision * x.square().sum(1, keepdim=True)
