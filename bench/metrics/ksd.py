"""Kernel Stein discrepancy of draws of q against the score of p: needs no draws of p and no normaliser."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.metrics.base import Fitted, Metric, Value
from bench.metrics.mmd import squared_distances
from bench.registry import register
from methods.base import Method
from targets.base import Target


def stein_kernel(x: Tensor, score: Tensor, c: float, beta: float) -> Tensor:
    """Stein kernel u_p(x_i, x_j) of k(x, y) = (c^2 + |x - y|^2)^beta; draws and scores [n, d] -> [n, n].

    u_p = s(x).s(y) k + s(x).grad_y k + s(y).grad_x k + tr grad_x grad_y k        (Liu et al. 2016, Theorem 3.6)

    with r = x - y, g = c^2 + |r|^2:  grad_x k = 2 beta g^(beta-1) r = -grad_y k  and
    tr grad_x grad_y k = -2 beta d g^(beta-1) - 4 beta (beta-1) g^(beta-2) |r|^2.
    """
    r2 = squared_distances(x, x)
    g = c**2 + r2
    s_x = (score * x).sum(1)
    cross = score @ x.T
    s_i_r, s_j_r = s_x[:, None] - cross, cross.T - s_x  # s_i . (x_i - x_j) and s_j . (x_i - x_j)
    k = g**beta
    slope = 2 * beta * k / g
    return (score @ score.T) * k + slope * (s_j_r - s_i_r - x.shape[1] - 2 * (beta - 1) * r2 / g)


def ksd2_unbiased(x: Tensor, score: Tensor, c: float, beta: float) -> float:
    """U-statistic of KSD^2, the mean of u_p over i != j; its expectation is zero if and only if the draws follow p."""
    x, score = x.double(), score.double()
    kernel = stein_kernel(x, score, c, beta)
    n = len(x)
    return float((kernel.sum() - kernel.trace()) / (n * (n - 1)))


@register("metric", "ksd", source="Liu, Lee & Jordan 2016, arXiv:1602.03253; IMQ kernel: arXiv:1703.01717")
class KSD(Metric):
    """Squared kernel Stein discrepancy (U-statistic) of q's draws, inverse multiquadric kernel, no preconditioning.

    SQUARED and unbiased: draws from p give values around 0 of either sign, and so does the floor (truth draws in
    place of q's, at the same n; None where the target has none).  Blind to the weights of well-separated modes.

    Args:
        n: draws of q.
        c: scale of the kernel (c^2 + |x - y|^2)^beta.
        beta: its exponent, between -1 and 0.
    """

    def __init__(self, *, n: int = 1000, c: float = 1.0, beta: float = -0.5) -> None:
        self.n, self.c, self.beta = n, c, beta

    def applies(self, method: Method, target: Target) -> str | None:
        return None if "score" in target.provides else "the target has no score"

    @torch.no_grad()
    def __call__(self, q: Fitted) -> Value:
        has_truth = "truth" in q.target.provides
        return Value(self._ksd2(q, q.draws(self.n)), self._ksd2(q, q.truth(self.n)) if has_truth else None)

    def _ksd2(self, q: Fitted, x: Tensor) -> float:
        return ksd2_unbiased(x, q.target.original().score(x), self.c, self.beta)
