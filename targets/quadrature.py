"""A density in one or two dimensions tabulated on a fine grid: its normaliser and draws from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

CHUNK = 2**18


class Tabulated:
    """exp(log_density) over a box cut into ``cells`` equal cells per axis (midpoint rule, float64, CPU).

    Draws take a cell by inverse CDF and are uniform inside it: what they miss is the variation of the density within
    a cell, of relative order (cell / scale of the density)^2.

    Args:
        log_density: unnormalised, [n, d] -> [n] (nats), in float64.
        box: (low, high) per axis; should hold all mass that matters.
        cells: per axis.
    """

    def __init__(self, log_density: Callable[[Tensor], Tensor], box: Sequence[tuple[float, float]], cells: int) -> None:
        self.low = torch.tensor([low for low, _ in box], dtype=torch.float64)
        self.step = torch.tensor([(high - low) / cells for low, high in box], dtype=torch.float64)
        self.shape = (cells,) * len(box)
        numbers = torch.arange(cells ** len(box)).split(CHUNK)
        with torch.no_grad():
            log_mass = torch.cat([log_density(self._corner(part) + 0.5 * self.step) for part in numbers])
        self.log_z = float(torch.logsumexp(log_mass, 0)) + math.log(float(self.step.prod()))
        """log of the integral over the box (nats)."""
        self.cumulative = torch.softmax(log_mass, 0).cumsum(0)

    def _corner(self, cell: Tensor) -> Tensor:
        """Lower corner of each cell, [n] -> [n, d]."""
        index = torch.stack(torch.unravel_index(cell, self.shape), dim=-1)
        return self.low + index * self.step

    def sample(self, n: int, generator: Generator) -> Tensor:
        """n draws, [n, d], float64."""
        uniform = torch.rand(n, 1 + len(self.shape), generator=generator, dtype=torch.float64)
        cell = torch.searchsorted(self.cumulative, uniform[:, 0].contiguous(), right=True)
        return self._corner(cell.clamp(max=len(self.cumulative) - 1)) + uniform[:, 1:] * self.step
