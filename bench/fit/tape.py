"""Noise as an input of the loss: shapes are learnt from one probe call, values are drawn per seed in blocks.

Block b of seed s comes from a generator seeded by (s, "train", b): no stream state is kept, a run continued from a
checkpoint sees the same noise, and a seed sees the same noise alone or beside others.  Of several processes that share
a fit, number r > 0 adds r to these parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from bench.noise import generator

MAX_BLOCK_VALUES = 1 << 20
"""Noise values held per seed (4 MB in float32); together with ``MAX_BLOCK_STEPS`` it fixes the block length."""

MAX_BLOCK_STEPS = 256


class Probe:
    """Noise that counts what a loss draws."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.normals = self.uniforms = 0
        self._generator = generator("probe", device=device)
        self.device, self.dtype = device, dtype

    def normal(self, *shape: int) -> Tensor:
        self.normals += prod(shape)
        return torch.randn(shape, generator=self._generator, device=self.device, dtype=self.dtype)

    def uniform(self, *shape: int) -> Tensor:
        self.uniforms += prod(shape)
        return torch.rand(shape, generator=self._generator, device=self.device, dtype=self.dtype)


class Replay:
    """Noise read in order from one seed's flat vectors of one step."""

    def __init__(self, normals: Tensor, uniforms: Tensor) -> None:
        self._left = {"normal": normals, "uniform": uniforms}
        self._used = {"normal": 0, "uniform": 0}

    def _next(self, kind: str, shape: tuple[int, ...]) -> Tensor:
        start = self._used[kind]
        self._used[kind] = stop = start + prod(shape)
        return self._left[kind][start:stop].view(shape)

    def normal(self, *shape: int) -> Tensor:
        return self._next("normal", shape)

    def uniform(self, *shape: int) -> Tensor:
        return self._next("uniform", shape)


@dataclass(frozen=True)
class Draws:
    """How many values one loss call draws."""

    normals: int
    uniforms: int


class Tape:
    """The noise of all seeds for one block of steps, [S, block, values], refilled in place.

    Args:
        seeds: the run's seeds.
        draws: what one iteration (all players, all their steps) draws.
        rank: number of this process.
    """

    def __init__(self, seeds: list[int], draws: Draws, device: torch.device, dtype: torch.dtype, rank: int = 0) -> None:
        self.seeds, self.device, self.rank = seeds, device, rank
        values = max(1, draws.normals + draws.uniforms)
        self.length = max(1, min(MAX_BLOCK_STEPS, MAX_BLOCK_VALUES // values))
        self.normals = torch.zeros(len(seeds), self.length, draws.normals, device=device, dtype=dtype)
        self.uniforms = torch.zeros(len(seeds), self.length, draws.uniforms, device=device, dtype=dtype)
        self.block = -1

    def load(self, step: int) -> int:
        """Make the block that holds ``step`` present; returns the first step after it."""
        block = step // self.length
        if block != self.block:
            for row, seed in enumerate(self.seeds):
                stream = generator(seed, "train", block, *([self.rank] if self.rank else []), device=self.device)
                self.normals[row].normal_(generator=stream)
                self.uniforms[row].uniform_(generator=stream)
            self.block = block
        return (block + 1) * self.length

    def tensors(self) -> list[Tensor]:
        return [self.normals, self.uniforms]
