"""The parameters of one owner group as one flat vector per seed.

Flat vectors keep the number of optimiser operations independent of the number of layers and make freezing, clipping,
averaging and checkpointing one line each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import torch
from torch import Tensor

from methods.base import Method, Player


class Layout:
    """Names and shapes of one group's parameters inside its flat vector [P]."""

    def __init__(self, parameters: dict[str, Tensor]) -> None:
        self.shapes = {name: tuple(p.shape) for name, p in parameters.items()}
        self.sizes = [prod(shape) for shape in self.shapes.values()]
        self.size = sum(self.sizes)

    def flatten(self, parameters: dict[str, Tensor]) -> Tensor:
        return torch.cat([parameters[name].detach().reshape(-1) for name in self.shapes])

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        pieces = flat.split(self.sizes)
        return {name: piece.view(shape) for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)}


def group_name(player: Player) -> str:
    """Players that own the same parameters share them; the group is named by what it owns."""
    return "+".join(player.owns)


def layouts(method: Method, players: Sequence[Player]) -> dict[str, Layout]:
    """One layout per owner group.

    Raises:
        ValueError: a trainable parameter has no owner, two different groups overlap, or a prefix matches nothing.
    """
    trainable = {n: p for n, p in method.named_parameters() if p.requires_grad}
    owner: dict[str, str] = {}
    found: dict[str, Layout] = {}
    for player in players:
        group = group_name(player)
        if group in found:
            continue
        names = [n for n in trainable if any(n == o or n.startswith(o + ".") for o in player.owns)]
        if not names and player.loss is not None:
            raise ValueError(f"player {player.name!r} owns {player.owns}, which matches no parameter")
        for name in names:
            if name in owner:
                raise ValueError(f"parameter {name!r} is owned by both {owner[name]!r} and {group!r}")
            owner[name] = group
        found[group] = Layout({n: trainable[n] for n in names})
    orphans = sorted(set(trainable) - set(owner))
    if orphans:
        raise ValueError(f"no player owns {', '.join(orphans)}; add them to a player or set requires_grad=False")
    return found


def load(groups: Mapping[str, Layout], values: Mapping[str, Tensor], into: Method) -> Method:
    """Copy one seed's evaluation parameters (EMA where there is one) and carried buffers into ``into``.

    Args:
        groups: from ``layouts``.
        values: flat ``theta/<group>`` and ``ema/<group>`` [P], buffers ``buf/<name>``.
    """
    targets = dict(into.named_parameters())
    with torch.no_grad():
        for group, layout in groups.items():
            flat = values.get(f"ema/{group}", values[f"theta/{group}"])
            for name, value in layout.split(flat).items():
                targets[name].copy_(value)
        for name in into.carried:
            into.get_buffer(name).copy_(values[f"buf/{name}"])
    return into
