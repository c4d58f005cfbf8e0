"""Random streams: every draw comes from a generator seeded by (run seed, purpose, ...), never from a global state."""

from __future__ import annotations

import hashlib

import torch
from torch import Generator, Tensor


def derived_seed(*parts: object) -> int:
    """A 63-bit seed from named parts, for example ``derived_seed(3, "train", block)``."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(*parts: object, device: torch.device | str = "cpu") -> Generator:
    """A generator seeded by named parts."""
    return torch.Generator(device=device).manual_seed(derived_seed(*parts))


class DirectNoise:
    """``methods.base.Noise`` drawn on the spot, for sampling and evaluation.

    Draws are made where the generator is and then moved: with one on the CPU, evaluation does not depend on the device.
    """

    def __init__(self, generator: Generator, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32):
        self.generator, self.device, self.dtype = generator, device, dtype

    def normal(self, *shape: int) -> Tensor:
        where = self.generator.device
        return torch.randn(shape, generator=self.generator, dtype=self.dtype, device=where).to(self.device)

    def uniform(self, *shape: int) -> Tensor:
        where = self.generator.device
        return torch.rand(shape, generator=self.generator, dtype=self.dtype, device=where).to(self.device)
