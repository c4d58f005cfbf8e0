"""One initialised method per seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from bench.noise import derived_seed
from methods.base import Method


def initialise(build: Callable[[], Method], seeds: Sequence[int]) -> list[Method]:
    """Call ``build`` once per seed under that seed's initialisation stream.

    Library modules initialise from torch's global generator only, so it is seeded inside a fork and restored.
    """
    members = []
    for seed in seeds:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(seed, "init"))
            members.append(build())
    return members
