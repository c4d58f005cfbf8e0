"""A small conditional RealNVP on the unit cube: the reverse model tau(z | x) of AISIVI.

Written here because zuko's coupling layers look up their mask with ``nonzero`` and assemble their output in place,
which neither ``vmap`` nor a trace without synchronisation allows, and its masked coupling costs two passes one way.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMALLEST_SCALE = 1e-7
EDGE = 1e-6
"""Draws of z are kept this far from 0 and 1 before the logit."""


class ConditionalCoupling(nn.Module):
    """Masked affine coupling y = b z + (1 - b)(z softplus(s) + t), (s, t) a network of (b z, x), then y exp(a) + c.

    The elementwise affine part is an ActNorm.  The layer starts as the identity: the output layer is zero and softplus
    is shifted to 1, where the authors initialise ActNorm from a first batch to undo softplus(0).

    Args:
        dim: k, dimension of z.
        context: d, dimension of x.
        parity: 0 or 1: which coordinates pass unchanged (b = 1).
        hidden: width of the one hidden layer; s and t share it.
    """

    mask: Tensor

    def __init__(self, dim: int, context: int, parity: int, hidden: int) -> None:
        super().__init__()
        self.register_buffer("mask", (torch.arange(dim) % 2 == parity).to(torch.get_default_dtype()))
        self.from_z = nn.Linear(dim, hidden, bias=False)
        self.from_x = nn.Linear(context, hidden)
        self.out = nn.Linear(hidden, 2 * dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.log_scale = nn.Parameter(torch.zeros(dim))
        self.shift = nn.Parameter(torch.zeros(dim))

    def _scale_and_shift(self, kept: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        # the two halves of the first layer are added, not concatenated: x [n, d] then serves all draws z [..., n, k]
        s, t = self.out(F.relu(self.from_z(kept) + self.from_x(x))).chunk(2, dim=-1)
        scale = F.softplus(s + math.log(math.e - 1)) + SMALLEST_SCALE
        return self.mask + (1 - self.mask) * scale, (1 - self.mask) * t

    def forward(self, z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """y and log |dy / dz|; z [..., n, k], x [n, d] -> [..., n, k] and [..., n]."""
        scale, shift = self._scale_and_shift(self.mask * z, x)
        y = (z * scale + shift) * self.log_scale.exp() + self.shift
        return y, (scale.log() + self.log_scale).sum(-1)

    def inverse(self, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """z and log |dz / dy|."""
        y = (y - self.shift) * torch.exp(-self.log_scale)
        scale, shift = self._scale_and_shift(self.mask * y, x)
        return (y - shift) / scale, -(scale.log() + self.log_scale).sum(-1)


class ConditionalRealNVP(nn.Module):
    """tau(z | x) on (0, 1)^k: N(0, I) through alternating couplings, then the sigmoid.

    Args:
        dim: k, dimension of z.
        context: d, dimension of x.
        layers: couplings; their masks alternate.
        hidden: width of each coupling's hidden layer; the authors' two networks have 2 (k + d) units each.
    """

    def __init__(self, dim: int, context: int, layers: int, hidden: int | None = None) -> None:
        super().__init__()
        width = 4 * (dim + context) if hidden is None else hidden
        self.couplings = nn.ModuleList(ConditionalCoupling(dim, context, i % 2, width) for i in range(layers))

    def push(self, eps: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Base noise eps [..., n, k] -> z ~ tau(. | x) [..., n, k] and log tau(z | x) [..., n]."""
        log_tau = _log_standard_normal(eps)
        y = eps
        for coupling in self.couplings:
            y, log_det = coupling(y, x)
            log_tau = log_tau - log_det
        return torch.sigmoid(y), log_tau - (F.logsigmoid(y) + F.logsigmoid(-y)).sum(-1)

    def log_prob(self, z: Tensor, x: Tensor) -> Tensor:
        """log tau(z | x); z [..., n, k] inside the unit cube, x [n, d] -> [..., n]."""
        y = torch.logit(z, eps=EDGE)
        log_tau = -(F.logsigmoid(y) + F.logsigmoid(-y)).sum(-1)
        for coupling in reversed(list(self.couplings)):
            assert isinstance(coupling, ConditionalCoupling)
            y, log_det = coupling.inverse(y, x)
            log_tau = log_tau + log_det
        return log_tau + _log_standard_normal(y)


def _log_standard_normal(y: Tensor) -> Tensor:
    return -0.5 * y.square().sum(-1) - 0.5 * y.shape[-1] * math.log(2 * math.pi)
