"""Negative-binomial counts of mites on apple leaves (Bliss & Fisher 1953): the conjugate example of the SIVI paper."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from bench.registry import register
from targets.base import Target
from targets.numerics import bounded_exp, bounded_exp_slope
from targets.quadrature import Tabulated

LEAVES = (70, 38, 17, 10, 9, 3, 2, 1)
"""Leaves with 0, 1, ..., 7 mites; 150 leaves, 172 mites."""

N = sum(LEAVES)
TOTAL = sum(k * leaves for k, leaves in enumerate(LEAVES))
ABOVE = tuple(sum(LEAVES[j + 1 :]) for j in range(len(LEAVES) - 1))
"""m_j, leaves with more than j mites: sum_i log Gamma(y_i + r) / Gamma(r) = sum_j m_j log(r + j)."""

PRIOR = 0.01
"""Shape and rate of r ~ Gamma(.01, rate .01); both parameters of p ~ Beta(.01, .01)."""

CONSTANT = (
    PRIOR * math.log(PRIOR)
    - math.lgamma(PRIOR)
    + math.lgamma(2 * PRIOR)
    - 2 * math.lgamma(PRIOR)
    - sum(leaves * math.lgamma(k + 1) for k, leaves in enumerate(LEAVES))
)


@register("target", "nb_mites", source="Yin & Zhou 2018 (SIVI), arXiv:1805.11183, section 5.2; Bliss & Fisher 1953")
class NBMites(Target):
    """Posterior of (log r, logit p) for 150 counts y ~ NB(r, p), pmf Gamma(y + r) / (y! Gamma(r)) p^y (1 - p)^r.

    Priors r ~ Gamma(.01, rate .01), p ~ Beta(.01, .01); the Jacobian of both maps is included, so that log_z is the log
    evidence.  KS distances of the marginals are those of r and p themselves, since both maps are monotone.  Draws and
    log_z come from quadrature on a fine grid, not from a Gibbs sampler as in the paper.
    """

    dim = 2
    log_z = -234.0629
    coordinate_names = ("r", "p")
    metrics = (
        "ks_distance_r",
        "ks_distance_p",
        "ks_pvalue_r",
        "ks_pvalue_p",
        "js_grid",
        "kl_forward_grid",
        "kl_reverse_grid",
        "js_hist",
        "sliced_w1",
        "sliced_w2",
        "correlation_rmse",
        "mmd",
        "ksd",
    )
    curve_metric = "js_grid"
    window = ((-1.3, 2.2), (-2.2, 1.8))

    offsets: Tensor
    above: Tensor

    def __init__(self) -> None:
        super().__init__()
        # log j with log 0 = -inf would give NaN gradients: the term of j = 0, m_0 log r, is written apart
        self.register_buffer("offsets", torch.tensor([math.log(j) for j in range(1, len(ABOVE))]))
        self.register_buffer("above", torch.tensor([float(m) for m in ABOVE[1:]]))

    def log_prob(self, x: Tensor) -> Tensor:
        """Log joint of the counts, log r and logit p; [..., 2] -> [...] (nats)."""
        u, v = x[..., 0], x[..., 1]
        r, log_p, log_not_p = bounded_exp(u), F.logsigmoid(v), F.logsigmoid(-v)
        rising = ABOVE[0] * u + (torch.logaddexp(u.unsqueeze(-1), self.offsets) * self.above).sum(-1)
        likelihood = rising + TOTAL * log_p + N * r * log_not_p
        return likelihood + PRIOR * (u - r + log_p + log_not_p) + CONSTANT

    def score(self, x: Tensor) -> Tensor:
        """Closed form; [..., 2] -> [..., 2]."""
        u, v = x[..., 0], x[..., 1]
        r, slope, p = bounded_exp(u), bounded_exp_slope(u), torch.sigmoid(v)
        rising = ABOVE[0] + (torch.sigmoid(u.unsqueeze(-1) - self.offsets) * self.above).sum(-1)
        by_u = rising + N * slope * F.logsigmoid(-v) + PRIOR * (1 - slope)
        by_v = (TOTAL + PRIOR) * torch.sigmoid(-v) - (N * r + PRIOR) * p
        return torch.stack((by_u, by_v), dim=-1)

    def sample(self, n: int, generator: Generator) -> Tensor:
        """n draws by quadrature, [n, 2] (CPU, float32)."""
        return tabulated().sample(n, generator).float()


@lru_cache(maxsize=1)
def tabulated() -> Tabulated:
    """The posterior on 600 x 600 cells of its window (once per process); a cell is 1 / 45 of a marginal sd."""
    assert NBMites.window is not None
    return Tabulated(NBMites().double().log_prob, NBMites.window, 600)
