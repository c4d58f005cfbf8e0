"""Layers of HSIVI: networks, one call for a single layer or for all side by side, and the layer that a row trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from methods.base import Noise
from methods.diffusion.networks import Conditioned, Stacked
from targets.diffusion.eps import EpsTeacher
from targets.numerics import pick

LayerNetwork = Literal["per_layer", "shared", "teacher", "teacher_per_layer"]


class Layers(Protocol):
    """What the networks of L layers offer: residuals on the teacher's eps, or eps itself (``absolute``)."""

    def __call__(self, x: Tensor) -> Tensor:
        """Row block l through layer l; [L, n, d] -> [L, n, d]."""

    def one(self, x: Tensor, l: int) -> Tensor:
        """All rows through layer l; [n, d] -> [n, d]."""


class SharedResidual(Conditioned):
    """One residual network for all layers, conditioned on their half-log-SNR.

    Args:
        levels: half-log-SNR per layer.
        dim, hidden: see ``Conditioned``.
    """

    levels: Tensor

    def __init__(self, levels: Sequence[float], dim: int, hidden: tuple[int, ...]) -> None:
        super().__init__(dim, 1, hidden)
        self.register_buffer("levels", torch.tensor(levels).unsqueeze(-1))

    def forward(self, x: Tensor, *levels: Tensor) -> Tensor:
        return super().forward(x, self.levels)

    def one(self, x: Tensor, l: int) -> Tensor:
        return super().forward(x, self.levels[l])


class Copies(nn.Module):
    """The teacher's network, once for all layers or once for each, trained further from its weights.

    Args:
        teacher: a network.
        times: tau per layer.
        separate: a copy per layer.

    Raises:
        UserError: the teacher is exact.
    """

    absolute = True
    times: Tensor

    def __init__(self, teacher: EpsTeacher, times: Sequence[float], separate: bool) -> None:
        super().__init__()
        count = len(times) if separate else 1
        self.nets = nn.ModuleList(teacher.trainable_copy() for _ in range(count))
        self.register_buffer("times", torch.tensor(times).unsqueeze(-1))

    def forward(self, x: Tensor) -> Tensor:
        if len(self.nets) > 1:
            return torch.stack([self.one(rows, l) for l, rows in enumerate(x)])
        out: Tensor = self.nets[0](x, self.times)
        return out

    def one(self, x: Tensor, l: int) -> Tensor:
        out: Tensor = self.nets[l % len(self.nets)](x, self.times[l])
        return out


def layer_networks(
    kind: LayerNetwork, teacher: EpsTeacher, times: Sequence[float], dim: int, hidden: tuple[int, ...]
) -> nn.Module:
    """Networks for layers at the times given; ``hidden`` are the widths of residual ones."""
    if kind.startswith("teacher"):
        return Copies(teacher, times, separate=kind == "teacher_per_layer")
    if kind == "per_layer":
        return Stacked(len(times), dim, hidden)
    return SharedResidual([teacher.schedule.half_log_snr(t) for t in times], dim, hidden)


def antithetic(n: int, count: int, noise: Noise) -> Tensor:
    """A layer 0..count-1 for each of n rows, uniform over the layers: the later rows mirror the first ones; [n].

    As in HSIVI's released code, n // 2 + 1 rows are drawn and the rest mirrored, so that the last one or two drawn have
    no mirror.
    """
    drawn = pick(n // 2 + 1, count, noise)
    return torch.cat([drawn, count - 1 - drawn])[:n]


class LogGamma(nn.Module):
    """log gamma of the layers, 0 at the start.

    Args:
        count: 1 for all layers alike, or their number.
        dim: 1, or d for a factor per coordinate.
    """

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        self.log_gamma = nn.Parameter(torch.zeros(count, 1, dim))

    def forward(self, i: int) -> Tensor:
        """gamma of the i-th layer, [1, 1 or d]."""
        return self.log_gamma[i if len(self.log_gamma) > 1 else 0].exp()
