"""Two-sided importance-weighted bounds on log q of a semi-implicit q.

With w_k = q(x|z_k) q(z_k) / tau(z_k|x), where z_0 generated x and z_1..z_K ~ tau(.|x):

    U_K = E log 1/(K+1) sum_{k=0..K} w_k  >=  E log q(x)  >=  E log 1/K sum_{k=1..K} w_k = L_K

(Sobolev & Vetrov, NeurIPS 2019, arXiv:1905.03290.)  tau = q(z) gives SIVI's bound, K = 0 that of HVM, and the exact
inverse tau = q(z|x) gives equality for every K.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def upper(log_w0: Tensor, log_w: Tensor) -> Tensor:
    """log 1/(K+1) sum_{k=0..K} w_k; [n], [n, K] -> [n]."""
    both = torch.cat([log_w0.unsqueeze(1), log_w], dim=1)
    return torch.logsumexp(both, dim=1) - math.log(both.shape[1])


def lower(log_w: Tensor) -> Tensor:
    """log 1/K sum_{k=1..K} w_k; [n, K] -> [n]."""
    return torch.logsumexp(log_w, dim=1) - math.log(log_w.shape[1])
