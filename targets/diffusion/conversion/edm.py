"""Networks of NVlabs/edm (CC BY-NC-SA 4.0; the weights keep their licence): DDPM++ and ADM, preconditioned.

The published pickles hold their own source code, which is never run: ``pickles`` reads parameters and settings only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from bench.errors import UserError
from targets.diffusion.conversion.layout import Converted, Places, attention_rows, needed, renamed
from targets.diffusion.conversion.pickles import Inert

_BLOCK = ("norm0", "conv0", "affine", "norm1", "conv1")
_ATTENTION = {"norm2": "norm", "qkv": "qkv", "proj": "proj"}
HEAD_WIDTH = 64
"""Channels per head of ADM; DDPM++ has one head."""


def preconditioning(net: Inert) -> dict[str, Any]:
    """Arguments of ``Preconditioned`` that the outer module of a pickle states.

    Raises:
        UserError: it is another preconditioning than VP or EDM.
    """
    if net.name == "VPPrecond":
        found = {"precondition": "vp", "beta_d": "beta_d", "beta_min": "beta_min", "steps": "M"}
    elif net.name == "EDMPrecond":
        found = {"precondition": "edm", "sigma_data": "sigma_data"}
    else:
        raise UserError(f"a network with the preconditioning {net.name}", "VPPrecond and EDMPrecond can be converted")
    if net.state.get("label_dim"):
        raise UserError("the network takes class labels", "only unconditional ones can be teachers here")
    return {key: value if key == "precondition" else _number(net.state[value]) for key, value in found.items()}


def _number(value: Any) -> float | int:
    number = float(value)
    return int(number) if number.is_integer() and isinstance(value, int) else number


def convert(state: Mapping[str, Tensor], preconditioned: Mapping[str, Any], schedule: Mapping[str, Any]) -> Converted:
    """A network of EDM's ``SongUNet`` (DDPM++) or ``DhariwalUNet`` (ADM).

    Args:
        state: parameters of the preconditioned module.
        preconditioned: of ``preconditioning``.
        schedule: the variance-preserving diffusion it is to serve.

    Raises:
        UserError: it is no such state, or one with labels, residual encoder or smoother resampling (NCSN++).
    """
    state = {name.removeprefix("model."): value for name, value in state.items()}
    _refuse_variants(state)
    state = {name: value for name, value in state.items() if "resample_filter" not in name}
    state.pop("map_augment.weight", None)  # zero labels in use: the augmentation is off
    sides = sorted({int(name.split(".")[1].split("x")[0]) for name in state if name.startswith("enc.")}, reverse=True)
    first = needed(state, f"enc.{sides[0]}x{sides[0]}_conv.weight" if sides else "enc", "an EDM network")
    blocks = len({n.split(".")[1] for n in state if n.startswith(f"enc.{sides[0]}x{sides[0]}_block")})
    tops = [f"enc.{side}x{side}_block0" for side in sides]
    outputs = [len(state[f"{top}.conv0.weight"]) for top in tops]
    adaptive = len(state[f"{tops[0]}.affine.weight"]) == 2 * outputs[0]
    width = len(first)
    network = {
        "family": "dhariwal" if adaptive else "song",
        "width": width,
        "multipliers": [out // width for out in outputs],
        "blocks": blocks,
        "attention": [i for i, top in enumerate(tops) if f"{top}.qkv.weight" in state],
        "head_width": HEAD_WIDTH if adaptive else 0,
    }
    found = renamed(state, _names(state, Places(len(sides), blocks), sides, adaptive))
    for name in found:
        if ".qkv." in name:
            heads = len(found[name]) // (3 * HEAD_WIDTH) if adaptive else 1
            found[name] = attention_rows(found[name], heads, "head channel qkv")
    arguments = {**preconditioned, "schedule": dict(schedule), "network": network}
    shape = (int(first.shape[1]), sides[0], sides[0])
    return Converted("preconditioned", arguments, shape, {f"net.{name}": value for name, value in found.items()})


def _refuse_variants(state: Mapping[str, Tensor]) -> None:
    if "map_label.weight" in state:
        raise UserError("the network takes class labels", "only unconditional ones can be teachers here")
    wide = [n for n, v in state.items() if n.endswith("resample_filter") and tuple(v.shape[-2:]) != (2, 2)]
    if wide or any(".aux_" in n or "_aux_residual" in n or "_aux_skip" in n for n in state if n.startswith("enc.")):
        raise UserError("an NCSN++ network (residual encoder, smooth resampling)", "DDPM++ and ADM can be converted")


def _names(state: Mapping[str, Tensor], at: Places, sides: list[int], adaptive: bool) -> Iterator[tuple[str, str]]:
    top = f"{sides[0]}x{sides[0]}"
    yield from (("map_layer0", "embed.0"), ("map_layer1", "embed.2"), (f"enc.{top}_conv", "first"))
    yield from (
        (("out_norm", "norm"), ("out_conv", "last"))
        if adaptive
        else (
            (f"dec.{top}_aux_norm", "norm"),
            (f"dec.{top}_aux_conv", "last"),
        )
    )
    for level, side in enumerate(sides):
        for block in range(at.blocks):
            yield from _block(state, f"enc.{side}x{side}_block{block}", at.encoder(level, block))
        for block in range(at.blocks + 1):
            yield from _block(state, f"dec.{side}x{side}_block{block}", at.decoder(level, block))
        if level:
            yield from _block(state, f"enc.{side}x{side}_down", at.down(level))
        if level < at.levels - 1:
            yield from _block(state, f"dec.{side}x{side}_up", at.up(level))
    bottom = f"dec.{sides[-1]}x{sides[-1]}"
    yield from _block(state, f"{bottom}_in0", "middle.0")
    yield from _block(state, f"{bottom}_in1", "middle.1")


def _block(state: Mapping[str, Tensor], theirs: str, ours: str) -> Iterator[tuple[str, str]]:
    yield from ((f"{theirs}.{name}", f"{ours}.{name}") for name in _BLOCK)
    if f"{theirs}.skip.weight" in state:
        yield f"{theirs}.skip", f"{ours}.skip"
    if f"{theirs}.qkv.weight" in state:
        yield from ((f"{theirs}.{name}", f"{ours}.attention.{new}") for name, new in _ATTENTION.items())
