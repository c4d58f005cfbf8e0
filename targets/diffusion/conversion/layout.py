"""Where a published network's parameters lie in ``ImageUNet``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from bench.errors import UserError

Rows = Literal["qkv head channel", "head qkv channel", "head channel qkv"]


@dataclass(frozen=True)
class Converted:
    """A published network as one of ours.

    Attributes:
        network, arguments: of ``targets.diffusion.networks.make_network``.
        shape: C, H, W.
        state: its parameters by our names.
        about: what else the file told.
    """

    network: str
    arguments: Mapping[str, Any]
    shape: tuple[int, int, int]
    state: Mapping[str, Tensor]
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Places:
    """Positions in the encoder and decoder of a network of ``levels`` levels with ``blocks`` blocks each."""

    levels: int
    blocks: int

    def encoder(self, level: int, block: int) -> str:
        """A residual block."""
        return f"encoder.{level * (self.blocks + 1) + block}"

    def down(self, level: int) -> str:
        """The step down that arrives at ``level``."""
        return f"encoder.{level * (self.blocks + 1) - 1}"

    def decoder(self, level: int, block: int) -> str:
        """A residual block of the decoder, ``blocks`` + 1 per level."""
        return f"decoder.{(self.levels - 1 - level) * (self.blocks + 2) + block}"

    def up(self, level: int) -> str:
        """The step up that arrives at ``level``."""
        return f"decoder.{(self.levels - 1 - level) * (self.blocks + 2) - 1}"


def attention_rows(value: Tensor, heads: int, order: Rows) -> Tensor:
    """Rows of a joint projection of q, k and v in the order (q k v, head, channel); [3 c, ...] -> [3 c, ...]."""
    width = len(value) // (3 * heads)
    if order == "head qkv channel":
        return value.unflatten(0, (heads, 3, width)).transpose(0, 1).flatten(0, 2)
    if order == "head channel qkv":
        return value.unflatten(0, (heads, width, 3)).movedim(2, 0).flatten(0, 2)
    return value


def renamed(state: Mapping[str, Tensor], names: Iterable[tuple[str, str]]) -> dict[str, Tensor]:
    """Parameters under our names; ``names`` pairs prefixes, theirs with ours, ``weight`` and ``bias`` follow.

    Raises:
        UserError: one is missing, or some are left over.
    """
    found: dict[str, Tensor] = {}
    used: set[str] = set()
    for theirs, ours in names:
        for kind in ("weight", "bias"):
            if f"{theirs}.{kind}" not in state:
                raise UserError(
                    f"the file has no {theirs}.{kind}", "it holds another network, or parameters of another format"
                )
            found[f"{ours}.{kind}"] = state[f"{theirs}.{kind}"].float()
            used.add(f"{theirs}.{kind}")
    if left := sorted(set(state) - used):
        raise UserError(
            f"the file has {len(left)} tensors that this format does not know: {', '.join(left[:5])} ...",
            "it holds another network; published variants with labels or other blocks cannot be converted",
        )
    return found


def pixels_as_matrix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """1-D convolutions of attention, [a, b, 1], as 2-D ones, [a, b, 1, 1]."""
    return {name: value.unsqueeze(-1) if value.dim() == 3 else value for name, value in state.items()}


def needed(state: Mapping[str, Tensor], name: str, what: str) -> Tensor:
    """A tensor that tells the format.

    Raises:
        UserError: it is not there.
    """
    if name not in state:
        keys = ", ".join(sorted(state)[:4])
        raise UserError(f"no tensor {name} in the file (it has {keys}, ...)", f"this is no state of {what}")
    value = state[name]
    return value if isinstance(value, Tensor) else torch.as_tensor(value)
