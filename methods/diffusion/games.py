"""The Fisher game in units of eps, shared by HSIVI-SM, CoSIM and SiD."""

from __future__ import annotations

from torch import Tensor


def game(g: Tensor, eps: Tensor, r: Tensor, alpha: float, regulariser: float = 0.0) -> Tensor:
    """2 <g, r - eps> - 2 alpha (1 + regulariser) |g|^2 per row; [..., d] each -> [...].

    At a point x of noise level sigma, eps is the teacher's prediction (-sigma times the score of p), r is -sigma times
    the conditional score of q, and g = f - eps with f the critic's estimate of E[r | x], -sigma times the score of q.

    With alpha = 1/2 and the best g for the regulariser, (E[r | x] - eps) / (1 + regulariser), the mean over q is
    sigma^2 |score_p - score_q|^2 / (1 + regulariser): the game of HSIVI-SM (Yu et al. 2023, arXiv:2310.17153) and
    CoSIM (Yu et al. 2025, arXiv:2506.06778).  Larger alpha are the corrections of SiD (Zhou et al. 2024,
    arXiv:2404.04057, whose alpha this is); the objective is then minus a divergence at the best critic, but the
    gradient that flows through the critic's input stays useful where the critic lags.
    """
    return 2 * (g * (r - eps)).sum(-1) - 2 * alpha * (1 + regulariser) * g.square().sum(-1)


def regression(g: Tensor, eps: Tensor, r: Tensor, regulariser: float = 0.0) -> Tensor:
    """|g + eps - r|^2 + regulariser |g|^2 per row: the critic's loss; [..., d] each -> [...]."""
    return (g + eps - r).square().sum(-1) + regulariser * g.square().sum(-1)
