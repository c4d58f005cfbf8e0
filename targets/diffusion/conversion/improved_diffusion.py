"""States of openai/improved-diffusion (MIT licence): the teacher of HSIVI-SM on ImageNet 64."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from bench.errors import UserError
from targets.diffusion.conversion.layout import (
    Converted,
    Places,
    attention_rows,
    needed,
    pixels_as_matrix,
    renamed,
)

_RESIDUAL = {
    "in_layers.0": "norm0",
    "in_layers.2": "conv0",
    "emb_layers.1": "affine",
    "out_layers.0": "norm1",
    "out_layers.3": "conv1",
}
_ATTENTION = {"norm": "norm", "qkv": "qkv", "proj_out": "proj"}


def convert(state: Mapping[str, Tensor], size: int, heads: int = 4, **settings: Any) -> Converted:
    """A network of improved-diffusion's ``UNetModel``; of a head that also predicts variances the first half is kept.

    Args:
        state: its parameters.
        size: height and width of its images; they do not enter the parameters.
        heads: of the attention; they do not enter either, 4 is that code's default.
        settings: further arguments of ``ImageUNet``.

    Raises:
        UserError: it is no such state, or one with labels or without scale-shift normalisation.
    """
    first = needed(state, "input_blocks.0.0.weight", "improved-diffusion's UNetModel")
    width, channels = (int(n) for n in first.shape[:2])
    if "label_emb.weight" in state:
        raise UserError("the network takes class labels", "only unconditional ones can be teachers here")
    places, multipliers, attention = _architecture(state, width)
    state = dict(state)
    for kind in ("weight", "bias"):  # eps, then the variances of learn_sigma
        head = needed(state, f"out.2.{kind}", "improved-diffusion's UNetModel")
        if len(head) not in (channels, 2 * channels):
            raise UserError(
                f"out.2.{kind} has {len(head)} rows", f"expected {channels}, or {2 * channels} of learn_sigma"
            )
        state[f"out.2.{kind}"] = head[:channels]
    arguments = {
        "family": "improved",
        "width": width,
        "multipliers": multipliers,
        "blocks": places.blocks,
        "attention": attention,
        "heads": heads,
        **settings,
    }
    found = pixels_as_matrix(renamed(state, _names(state, places)))
    for name in found:
        if ".qkv." in name:
            attended = len(found[name]) // 3
            if heads != int(heads) or heads < 1 or attended % heads:
                raise UserError(f"--set heads={heads}", f"give a whole number that divides {attended} channels")
            found[name] = attention_rows(found[name], heads, "head qkv channel")
    return Converted("image_unet", arguments, (channels, size, size), found)


def _architecture(state: Mapping[str, Tensor], width: int) -> tuple[Places, list[int], list[int]]:
    """Walk the encoder: a convolution called ``op`` ends a level."""
    levels: list[list[int]] = [[]]
    attention: set[int] = set()
    i = 1
    while any(name.startswith(f"input_blocks.{i}.") for name in state):
        if f"input_blocks.{i}.0.op.weight" in state:
            levels.append([])
        else:
            block = f"input_blocks.{i}.0"
            inside = needed(state, f"{block}.in_layers.2.weight", "improved-diffusion's UNetModel")
            embedding = needed(state, f"{block}.emb_layers.1.weight", "improved-diffusion's UNetModel")
            if len(embedding) != 2 * len(inside):
                raise UserError(
                    "a network without scale-shift normalisation", "only use_scale_shift_norm=True is known"
                )
            levels[-1].append(len(inside) // width)
            if f"input_blocks.{i}.1.qkv.weight" in state:
                attention.add(len(levels) - 1)
        i += 1
    return Places(len(levels), len(levels[0])), [level[0] for level in levels if level], sorted(attention)


def _names(state: Mapping[str, Tensor], at: Places) -> Iterator[tuple[str, str]]:
    yield from (("time_embed.0", "embed.0"), ("time_embed.2", "embed.2"), ("input_blocks.0.0", "first"))
    yield from (("out.0", "norm"), ("out.2", "last"))
    for level in range(at.levels):
        start = 1 + level * (at.blocks + 1)
        for block in range(at.blocks):
            yield from _block(state, f"input_blocks.{start + block}", at.encoder(level, block))
        if level:
            yield f"input_blocks.{start - 1}.0.op", f"{at.down(level)}.conv"
        start = (at.levels - 1 - level) * (at.blocks + 1)
        for block in range(at.blocks + 1):
            yield from _block(state, f"output_blocks.{start + block}", at.decoder(level, block))
        if level:
            last = f"output_blocks.{start + at.blocks}"
            behind = 2 if f"{last}.1.qkv.weight" in state else 1
            yield f"{last}.{behind}.conv", f"{at.up(level - 1)}.conv"
    yield from _residual(state, "middle_block.0", "middle.0")
    yield from ((f"middle_block.1.{theirs}", f"middle.0.attention.{ours}") for theirs, ours in _ATTENTION.items())
    yield from _residual(state, "middle_block.2", "middle.1")


def _block(state: Mapping[str, Tensor], theirs: str, ours: str) -> Iterator[tuple[str, str]]:
    yield from _residual(state, f"{theirs}.0", ours)
    if f"{theirs}.1.qkv.weight" in state:
        yield from ((f"{theirs}.1.{name}", f"{ours}.attention.{new}") for name, new in _ATTENTION.items())


def _residual(state: Mapping[str, Tensor], theirs: str, ours: str) -> Iterator[tuple[str, str]]:
    yield from ((f"{theirs}.{name}", f"{ours}.{new}") for name, new in _RESIDUAL.items())
    if f"{theirs}.skip_connection.weight" in state:
        yield f"{theirs}.skip_connection", f"{ours}.skip"
