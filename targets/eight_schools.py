"""Eight schools: a hierarchical model whose exact posterior draws need one quadrature in one dimension."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from bench.checks import require_choice
from bench.registry import register
from targets.base import Target
from targets.centring import Parametrization
from targets.numerics import bounded_exp, bounded_exp_slope
from targets.quadrature import Tabulated

EFFECTS = (28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0)
ERRORS = (15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0)
"""Estimated effects of coaching and their standard errors (Rubin 1981)."""

SCALE = 5.0
"""mu ~ N(0, 5^2), tau ~ half-Cauchy(5), as in posteriordb."""

LIMIT = 25.0
"""tau = exp(log tau) is continued linearly beyond exp(25): squares of theta then fit float32."""

LOG_2PI = math.log(2 * math.pi)


def log_half_cauchy(log_tau: Tensor) -> Tensor:
    """Density of log tau for tau ~ half-Cauchy(SCALE), the Jacobian tau included (nats)."""
    return math.log(2 / (math.pi * SCALE)) + log_tau - F.softplus(2 * (log_tau - math.log(SCALE)))


@register(
    "target", "eight_schools", source="Rubin 1981, J. Educational Statistics 6(4); priors of stan-dev/posteriordb"
)
class EightSchools(Target):
    """y_j ~ N(theta_j, sigma_j^2), theta_j ~ N(mu, tau^2), mu ~ N(0, 25), tau ~ half-Cauchy(5); 10 coordinates.

    Coordinates (mu, log tau, theta_1..8) with the Jacobian of log tau; non-centred, theta_j = mu + tau e_j, they are
    (mu, log tau, e_1..8).  The data's constant is included: log_z is the log evidence.  Draws are exact up to a 1-D
    quadrature: log tau from its marginal posterior, then mu and theta from their Gaussian conditionals.

    Args:
        parametrization: ``centered`` or ``noncentered``; metrics are those of the centred coordinates.
    """

    dim = 10
    metrics = (
        "ks_max",
        "sliced_w1",
        "sliced_w2",
        "marginal_mean_error",
        "marginal_sd_error",
        "correlation_rmse",
        "mmd",
        "ksd",
    )
    curve_metric = "ks_max"
    log_z = -31.3113

    effects: Tensor
    errors: Tensor

    def __init__(self, *, parametrization: Parametrization = "centered") -> None:
        super().__init__()
        require_choice(Parametrization, "target", parametrization=parametrization)
        self.centered = None if parametrization == "centered" else EightSchools()
        self.register_buffer("effects", torch.tensor(EFFECTS))
        self.register_buffer("errors", torch.tensor(ERRORS))

    def original(self) -> Target:
        return self if self.centered is None else self.centered

    def to_original(self, x: Tensor) -> Tensor:
        """(mu, log tau, e) -> (mu, log tau, mu + tau e); identity when centred."""
        if self.centered is None:
            return x
        return torch.cat([x[..., :2], x[..., :1] + bounded_exp(x[..., 1:2], LIMIT) * x[..., 2:]], dim=-1)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log joint of data and parameters; [..., 10] -> [...] (nats)."""
        mu, log_tau = x[..., :1], x[..., 1:2]
        theta = self.to_original(x)[..., 2:]
        if self.centered is None:
            squares = (theta - mu).square() * bounded_exp(-2 * log_tau)
            schools = -0.5 * squares.sum(-1) - 8 * log_tau[..., 0]
        else:
            schools = -0.5 * x[..., 2:].square().sum(-1)
        likelihood = -0.5 * ((self.effects - theta) / self.errors).square().sum(-1) - self.errors.log().sum()
        constant = 8.5 * LOG_2PI + math.log(SCALE)
        prior = -0.5 * (mu[..., 0] / SCALE).square() + log_half_cauchy(log_tau[..., 0])
        return prior + schools + likelihood - constant

    def score(self, x: Tensor) -> Tensor:
        """Closed form; [..., 10] -> [..., 10]."""
        mu, log_tau, rest = x[..., :1], x[..., 1:2], x[..., 2:]
        theta = self.to_original(x)[..., 2:]
        pull = (self.effects - theta) / self.errors.square()
        by_mu = -mu / SCALE**2
        by_log_tau = 1 - 2 * torch.sigmoid(2 * (log_tau - math.log(SCALE)))
        if self.centered is None:
            towards_mu = (theta - mu) * bounded_exp(-2 * log_tau)
            squares = (theta - mu).square().sum(-1, keepdim=True)
            by_mu = by_mu + towards_mu.sum(-1, keepdim=True)
            by_log_tau = by_log_tau + squares * bounded_exp_slope(-2 * log_tau) - 8
            return torch.cat([by_mu, by_log_tau, pull - towards_mu], dim=-1)
        by_mu = by_mu + pull.sum(-1, keepdim=True)
        by_log_tau = by_log_tau + (pull * rest).sum(-1, keepdim=True) * bounded_exp_slope(log_tau, LIMIT)
        return torch.cat([by_mu, by_log_tau, pull * bounded_exp(log_tau, LIMIT) - rest], dim=-1)

    def sample(self, n: int, generator: Generator) -> Tensor:
        """n draws (mu, log tau, theta), [n, 10] (CPU, float32)."""
        log_tau = tabulated().sample(n, generator)
        noise = torch.randn(n, 9, generator=generator, dtype=torch.float64)
        mean, precision = conditional_of_mu(log_tau)
        mu = mean + precision.rsqrt() * noise[:, :1]
        y, variance = (torch.tensor(v, dtype=torch.float64) for v in (EFFECTS, [s**2 for s in ERRORS]))
        shrink = (2 * log_tau).exp() / ((2 * log_tau).exp() + variance)  # 1 where a school's own data say all
        theta = mu + shrink * (y - mu) + (shrink * variance).sqrt() * noise[:, 1:]
        return torch.cat([mu, log_tau, theta], dim=-1).float()


def conditional_of_mu(log_tau: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and precision of mu given tau and the data, theta integrated out; [n, 1] -> two [n, 1], float64."""
    y, variance = (torch.tensor(v, dtype=torch.float64) for v in (EFFECTS, [s**2 for s in ERRORS]))
    weights = 1 / (variance + (2 * log_tau).exp())
    precision = 1 / SCALE**2 + weights.sum(-1, keepdim=True)
    return (weights * y).sum(-1, keepdim=True) / precision, precision


def log_marginal(log_tau: Tensor) -> Tensor:
    """Log joint of the data and log tau, mu and theta integrated out; [n, 1] -> [n] (nats)."""
    y, variance = (torch.tensor(v, dtype=torch.float64) for v in (EFFECTS, [s**2 for s in ERRORS]))
    weights = 1 / (variance + (2 * log_tau).exp())
    mean, precision = conditional_of_mu(log_tau)
    fit = (weights * y.square()).sum(-1) - (mean.square() * precision).squeeze(-1)
    log_likelihood = 0.5 * (weights.log().sum(-1) - precision.squeeze(-1).log() - fit) - 4 * LOG_2PI - math.log(SCALE)
    return log_half_cauchy(log_tau.squeeze(-1)) + log_likelihood


@lru_cache(maxsize=1)
def tabulated() -> Tabulated:
    """Marginal posterior of log tau; beyond the box lies a share of e^-20 on the left and less on the right."""
    return Tabulated(log_marginal, [(-20.0, 15.0)], 2**16)
