"""A small conditional RealNVP on the unit cube: the reverse model tau(z | x) of AISIVI.

Written here because zuko's coupling layers look up their mask with ``nonzero`` and assemble their output in place,
which neither ``vmap`` nor a trace without synchronisation allows, and its masked coupling costs two passes one way.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.parts.kernels import squares

SMALLEST_SCALE = 1e-7
EDGE = 1e-6
"""Draws of z are kept this far from 0 and 1 before the logit."""


Halves = tuple[Tensor, Tensor]
"""The coordinates 0, 2, .. and 1, 3, .. of a vector, [..., (k + 1) // 2] and [..., k // 2]."""


def halves(y: Tensor) -> Halves:
    """Take the last dimension apart."""
    return y[..., ::2], y[..., 1::2]


def interleaved(parts: Halves) -> Tensor:
    """Put it together again."""
    even, odd = parts
    paired = torch.stack((even[..., : odd.shape[-1]], odd), -1).flatten(-2)
    return paired if even.shape[-1] == odd.shape[-1] else torch.cat((paired, even[..., -1:]), -1)


class ConditionalCoupling(nn.Module):
    """Affine coupling (a, b) -> (a, b softplus(s) + t), (s, t) a network of (a, x), then an elementwise affine map.

    The latter is an ActNorm, y -> y exp(log_scale) + shift.  The layer starts as the identity: the output layer is zero
    and softplus is shifted to 1, where the authors initialise ActNorm from a first batch to undo softplus(0).  Weights
    are those of a masked coupling (s and t of all k coordinates), of which the half that is needed is used.

    Args:
        dim: k, dimension of the vector.
        context: d, dimension of x.
        parity: 0 or 1: which half passes unchanged (is a).
        hidden: width of the one hidden layer; s and t share it.
    """

    def __init__(self, dim: int, context: int, parity: int, hidden: int) -> None:
        super().__init__()
        self.parity = parity
        self.from_z = nn.Linear(dim, hidden, bias=False)
        self.from_x = nn.Linear(context, hidden)
        self.out = nn.Linear(hidden, 2 * dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.log_scale = nn.Parameter(torch.zeros(dim))
        self.shift = nn.Parameter(torch.zeros(dim))

    def _scale_and_shift(self, kept: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        # the two parts of the first layer are added, not concatenated: x [n, d] then serves all draws [..., n, k]
        hidden = F.relu(F.linear(kept, self.from_z.weight[:, self.parity :: 2]) + self.from_x(x))
        moved = slice(1 - self.parity, None, 2)
        weight = self.out.weight.unflatten(0, (2, -1))[:, moved].flatten(0, 1)
        bias = self.out.bias.unflatten(0, (2, -1))[:, moved].flatten()
        s, t = F.linear(hidden, weight, bias).chunk(2, dim=-1)
        return F.softplus(s + math.log(math.e - 1)) + SMALLEST_SCALE, t

    def tensors(self) -> tuple[Tensor, ...]:
        """All parameters, in the order in which the fused estimate of AISIVI takes them."""
        return (self.from_z.weight, self.from_x.weight, self.from_x.bias, self.out.weight, self.out.bias,
                self.log_scale, self.shift)  # fmt: skip

    def _ordered(self, kept: Tensor, moved: Tensor) -> Halves:
        return (moved, kept) if self.parity else (kept, moved)

    def forward(self, z: Halves, x: Tensor) -> tuple[Halves, Tensor]:
        """y and log |dy / dz|; z [..., n, k] in halves, x [n, d] -> the same and [..., n]."""
        kept, moved = z[self.parity], z[1 - self.parity]
        scale, shift = self._scale_and_shift(kept, x)
        parts = self._ordered(kept, moved * scale + shift)
        y = tuple(
            part * a.exp() + c for part, a, c in zip(parts, halves(self.log_scale), halves(self.shift), strict=True)
        )
        return (y[0], y[1]), scale.log().sum(-1) + self.log_scale.sum()

    def inverse(self, y: Halves, x: Tensor) -> tuple[Halves, Tensor]:
        """z and log |dz / dy|."""
        parts = [
            (part - c) * torch.exp(-a) for part, a, c in zip(y, halves(self.log_scale), halves(self.shift), strict=True)
        ]
        kept, moved = parts[self.parity], parts[1 - self.parity]
        scale, shift = self._scale_and_shift(kept, x)
        return self._ordered(kept, (moved - shift) / scale), -scale.log().sum(-1) - self.log_scale.sum()


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
        parts, log_tau = halves(eps), _log_standard_normal(eps)
        for coupling in self.couplings:
            parts, log_det = coupling(parts, x)
            log_tau = log_tau - log_det
        y = interleaved(parts)
        return torch.sigmoid(y), log_tau - _log_slope(y)

    def log_prob(self, z: Tensor, x: Tensor) -> Tensor:
        """log tau(z | x); z [..., n, k] inside the unit cube, x [n, d] -> [..., n]."""
        y = torch.logit(z, eps=EDGE)
        log_tau, parts = -_log_slope(y), halves(y)
        for coupling in reversed(list(self.couplings)):
            assert isinstance(coupling, ConditionalCoupling)
            parts, log_det = coupling.inverse(parts, x)
            log_tau = log_tau + log_det
        return log_tau + sum(_log_standard_normal(part) for part in parts)


def _log_standard_normal(y: Tensor) -> Tensor:
    return -0.5 * squares(y) - 0.5 * y.shape[-1] * math.log(2 * math.pi)


def _log_slope(y: Tensor) -> Tensor:
    """log of the sigmoid's Jacobian determinant at y."""
    return (y - 2 * F.softplus(y)).sum(-1)
