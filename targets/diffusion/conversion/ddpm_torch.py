"""States of tqch/ddpm-torch (MIT licence): the teachers of HSIVI-SM on CIFAR-10 and CelebA."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from targets.diffusion.conversion.layout import Converted, Places, needed, renamed

_RESIDUAL = {"norm1": "norm0", "conv1": "conv0", "fc": "affine", "norm2": "norm1", "conv2": "conv1"}
_ATTENTION = {"norm": "norm", "project_in": "qkv", "project_out": "proj"}


def weights(content: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """The averaged weights of a training checkpoint, or the bare state the file is."""
    if isinstance(content.get("ema"), Mapping) and "shadow" in content["ema"]:
        content = content["ema"]["shadow"]
    elif isinstance(content.get("model"), Mapping):
        content = content["model"]
    return {name.removeprefix("module."): value for name, value in content.items()}


def convert(state: Mapping[str, Tensor], size: int, **settings: Any) -> Converted:
    """A network of ddpm-torch's ``UNet``.

    Args:
        state: its parameters.
        size: height and width of its images; they do not enter the parameters.
        settings: further arguments of ``ImageUNet`` (``eps=1e-5`` for HSIVI's networks).

    Raises:
        UserError: it is no such state.
    """
    what = "ddpm-torch's UNet"
    first = needed(state, "in_conv.weight", what)
    width, channels = first.shape[:2]
    levels = 1 + max(
        (int(name.split(".")[1].removeprefix("level_")) for name in state if name.startswith("downsamples.")), default=0
    )
    last = f"downsamples.level_{levels - 1}."
    blocks = 1 + max((int(name.split(".")[2]) for name in state if name.startswith(last)), default=0)
    attention = [i for i in range(levels) if f"downsamples.level_{i}.0.1.project_in.weight" in state]
    inner = ["0." if i in attention else "" for i in range(levels)]
    outputs = [needed(state, f"downsamples.level_{i}.0.{inner[i]}conv1.weight", what).shape[0] for i in range(levels)]
    arguments = {
        "family": "ddpm",
        "width": width,
        "multipliers": [int(out) // width for out in outputs],
        "blocks": blocks,
        "attention": attention,
        **settings,
    }
    names = _names(state, Places(levels, blocks), attention)
    return Converted("image_unet", arguments, (channels, size, size), renamed(state, names))


def _names(state: Mapping[str, Tensor], at: Places, attention: list[int]) -> Iterator[tuple[str, str]]:
    yield from (("embed.0", "embed.0"), ("embed.2", "embed.2"), ("in_conv", "first"))
    yield from (("out_conv.0", "norm"), ("out_conv.2", "last"))
    for level in range(at.levels):
        for block in range(at.blocks):
            yield from _block(state, f"downsamples.level_{level}.{block}", at.encoder(level, block), level in attention)
        for block in range(at.blocks + 1):
            yield from _block(state, f"upsamples.level_{level}.{block}", at.decoder(level, block), level in attention)
        if level:
            yield f"downsamples.level_{level - 1}.{at.blocks}.1", f"{at.down(level)}.conv"
            yield f"upsamples.level_{level}.{at.blocks + 1}.1", f"{at.up(level - 1)}.conv"
    yield from _residual(state, "middle.0", "middle.0")
    yield from ((f"middle.1.{theirs}", f"middle.0.attention.{ours}") for theirs, ours in _ATTENTION.items())
    yield from _residual(state, "middle.2", "middle.1")


def _block(state: Mapping[str, Tensor], theirs: str, ours: str, attends: bool) -> Iterator[tuple[str, str]]:
    if not attends:
        yield from _residual(state, theirs, ours)
        return
    yield from _residual(state, f"{theirs}.0", ours)
    yield from ((f"{theirs}.1.{name}", f"{ours}.attention.{new}") for name, new in _ATTENTION.items())


def _residual(state: Mapping[str, Tensor], theirs: str, ours: str) -> Iterator[tuple[str, str]]:
    yield from ((f"{theirs}.{name}", f"{ours}.{new}") for name, new in _RESIDUAL.items())
    if f"{theirs}.skip.weight" in state:
        yield f"{theirs}.skip", f"{ours}.skip"
