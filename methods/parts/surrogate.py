"""SIVI's surrogate of log q(x): the generating draw of z beside K auxiliary ones that all x share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from methods.parts.families import SharedCovariance
from methods.parts.kernels import statistic

PAIRWISE_DIM = 64
"""Largest dimension in which all differences between draws and auxiliary means are formed."""


def surrogate(q: SharedCovariance, x: Tensor, xi: Tensor, others: Tensor) -> Tensor:
    """log 1/(K+1) sum_{k=0..K} q(x_j | z_k), [J]: above log q(x_j) in expectation (Yin & Zhou 2018, arXiv:1805.11183).

    Args:
        q: the family.
        x: draws of q(x | z_0), [J, d].
        xi: the standard normal draws they were made with, [J, d].
        others: the means of z_1..z_K, [K, d].
    """
    d = x.shape[-1]
    y, m = q.whitened(x), q.whitened(others)  # J + K vectors are whitened, not J x K differences
    if d > PAIRWISE_DIM:
        squares = statistic("gaussian", y, m)  # by products: no [J, K, d] array
    else:
        squares = (y.unsqueeze(1) - m.unsqueeze(0)).square().sum(-1)
    squares = torch.cat([xi.square().sum(-1, keepdim=True), squares], dim=1)
    constant = q.log_det + 0.5 * d * math.log(2 * math.pi) + math.log(len(others) + 1)
    return torch.logsumexp(-0.5 * squares - constant, dim=1)
