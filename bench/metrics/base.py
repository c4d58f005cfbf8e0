"""What a metric is: a pure function of one fitted q with a declared direction, applicability and protocol.

A metric's keyword-only arguments ARE its protocol (sample counts, bins, order, projections): their hash is stored
with every value and a report never puts two protocols into one column.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor

from bench.device import clock
from bench.noise import DirectNoise, generator
from methods.base import Method
from targets.base import Target


@dataclass(frozen=True)
class Value:
    """A measured value and what is known about it.

    Args:
        value: the number.
        floor: where it exists, the noise floor: the same number for truth against truth at the same n.
        error: where it is estimated, how uncertain ``value`` is for this q; a metric says in which sense.
        against: what it was measured with that only the measurement knows, such as the hash of the data compared with;
            becomes part of the protocol.
    """

    value: float
    floor: float | None = None
    error: float | None = None
    against: Mapping[str, Any] = field(default_factory=dict)


class Fitted:
    """One seed's fitted q beside its target, with randomness that is the same for every method at the same seed.

    Args:
        method: the method with this seed's parameters (evaluation parameters, so EMA where used).
        target: the target; on the same device as the method.
        seed: the run's seed; evaluation noise is derived from it and from a purpose.
    """

    def __init__(self, method: Method, target: Target, seed: int, device: torch.device | str = "cpu") -> None:
        self.method, self.target, self.seed, self.device = method, target, seed, device
        tensors = (*method.parameters(), *method.buffers())  # a sampler without parameters has its schedule
        self.dtype = next((t.dtype for t in tensors if t.is_floating_point()), torch.float32)
        """What the method computes in; truth draws are given in it too."""
        self.cache: dict[tuple[object, ...], Any] = {}
        """Work that several metrics share, keyed by what it is and its parameters (q does not change)."""
        self.drawn, self.draw_seconds = 0, 0.0
        """How many draws were made so far, and what they took (``bench.device.clock``)."""

    def generator(self, purpose: str) -> Generator:
        """CPU generator for one purpose ("q", "truth", "floor", "projections", ...)."""
        return generator(self.seed, "eval", purpose)

    def noise(self, purpose: str) -> DirectNoise:
        return DirectNoise(self.generator(purpose), self.device, self.dtype)

    @torch.no_grad()
    def draws(self, n: int, purpose: str = "q") -> Tensor:
        """n draws from q in the coordinates of ``target.original()``, as truth draws are; [n, d], on ``device``."""
        return self.target.to_original(self.fitted_draws(n, purpose))

    @torch.no_grad()
    def fitted_draws(self, n: int, purpose: str = "q") -> Tensor:
        """The same draws in the coordinates of ``target.log_prob``, for metrics that evaluate densities of q or p."""
        started = clock(self.device)
        x = self.method.sample(n, self.noise(purpose))
        self.draw_seconds += clock(self.device) - started
        self.drawn += n
        return x

    def truth(self, n: int, purpose: str = "truth") -> Tensor:
        """n draws standing for p (exact, or a subset of the stored reference), [n, d], on ``device``."""
        return self.target.truth(n, self.generator(purpose)).to(self.device, self.dtype)

    def truth_pair(self, n: int) -> tuple[Tensor, Tensor]:
        """Two disjoint sets of n truth draws each: the first equals ``truth(n)``'s law, the pair gives noise floors."""
        both = self.target.truth(2 * n, self.generator("truth")).to(self.device, self.dtype)
        return both[:n], both[n:]


class Metric:
    """Base of all metrics; subclasses add keyword-only arguments (the protocol) and ``__call__``."""

    version: ClassVar[int] = 1
    added: ClassVar[Mapping[str, Any]] = {}
    """Arguments added after records were made, with the value that means "as before": left out of the protocol then."""

    curve: ClassVar[Mapping[str, Any]] = {}
    """Cheaper arguments for following it during training (the protocol's id differs)."""

    published_as: ClassVar[tuple[tuple[str, str], ...]] = ()
    """(metric, protocol) of the rows of ``results/published.csv`` that measure the same quantity."""
    published_setting: ClassVar[str] = ""
    """The ``setting`` those rows must have, where one protocol covers several quantities (marginals); empty: any."""

    direction: ClassVar[Literal["lower", "higher"]] = "lower"
    unit: ClassVar[str] = ""
    ranked: ClassVar[bool] = True
    """Whether the better value is the better q: not so for the loose end of a bound."""
    floor_is_noise: ClassVar[bool] = True
    """Whether the floor is an error of the value; else it is the value of a perfect q, with an error of its own."""

    def applies(self, method: Method, target: Target) -> str | None:
        """None if the metric can be computed, else the reason why not (shown in tables)."""
        return None

    def __call__(self, q: Fitted) -> Value:
        raise NotImplementedError

    def protocol(self) -> dict[str, Any]:
        """Everything the value depends on besides q and p."""
        arguments = {k: v for k, v in vars(self).items() if not (k in self.added and self.added[k] == v)}
        return {"metric": self.registered_name, "version": self.version, **arguments}

    def protocol_id(self) -> str:
        """Short hash of the protocol."""
        return protocol_hash(self.protocol())

    def measured(self, protocol: Mapping[str, Any]) -> bool:
        """Whether a recorded protocol is this one; what the value was measured against (weights, images) may differ."""
        own = json.loads(json.dumps(self.protocol()))  # tuples are lists in records
        arguments = {*own, *vars(self)}
        return {k: v for k, v in protocol.items() if k in arguments} == own

    registered_name: ClassVar[str] = ""


def protocol_hash(protocol: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits that stand for a protocol."""
    return hashlib.sha256(json.dumps(protocol, sort_keys=True).encode()).hexdigest()[:8]
