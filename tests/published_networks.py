"""Files in the formats of other codes, made from our own network by the inverse of the conversion.

The names are those of the published codes; that the conversion agrees with those codes' outputs was checked against
them once (docs/diffusion-images.md).  Values are random, biases included, so that any swap of tensors shows.
"""

from __future__ import annotations

import math
import pickle
import sys
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def scrambled(net: nn.Module, seed: int = 0) -> nn.Module:
    """All parameters random, at a scale that keeps outputs near 1."""
    random = torch.Generator().manual_seed(seed)
    for value in net.parameters():
        scale = 0.7 / math.sqrt(value[0].numel()) if value.dim() > 1 else 0.3
        value.data = scale * torch.randn(value.shape, generator=random)
    return net.eval()


def renamed_back(state: dict[str, Tensor], names: list[tuple[str, str]]) -> dict[str, Tensor]:
    """Our parameters under their names."""
    return {f"{theirs}.{kind}": state[f"{ours}.{kind}"] for theirs, ours in names for kind in ("weight", "bias")}


RESIDUAL = {
    "ddpm-torch": ("norm1", "conv1", "fc", "norm2", "conv2", "skip"),
    "improved-diffusion": (
        "in_layers.0",
        "in_layers.2",
        "emb_layers.1",
        "out_layers.0",
        "out_layers.3",
        "skip_connection",
    ),
    "edm": ("norm0", "conv0", "affine", "norm1", "conv1", "skip"),
}
OURS = ("norm0", "conv0", "affine", "norm1", "conv1", "skip")
ATTENTION = {
    "ddpm-torch": ("1.norm", "1.project_in", "1.project_out"),
    "improved-diffusion": ("1.norm", "1.qkv", "1.proj_out"),
    "edm": ("norm2", "qkv", "proj"),
}


def block(state: dict[str, Tensor], format: str, theirs: str, ours: str, nested: bool | None = None):
    """Names of a block; ``nested``: theirs holds the residual part and the attention as children 0 and 1."""
    attends = f"{ours}.attention.qkv.weight" in state
    inside = f"{theirs}.0" if (attends if nested is None else nested) else theirs
    for old, new in zip(RESIDUAL[format], OURS, strict=True):
        if f"{ours}.{new}.weight" in state:
            yield f"{inside}.{old}", f"{ours}.{new}"
    for old, new in zip(ATTENTION[format], ("norm", "qkv", "proj"), strict=True):
        if attends:
            yield f"{theirs}.{old}", f"{ours}.attention.{new}"


def ddpm_torch_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Two levels, one block each, attention in the second."""
    names = [("embed.0", "embed.0"), ("embed.2", "embed.2"), ("in_conv", "first")]
    names += [("out_conv.0", "norm"), ("out_conv.2", "last")]
    names += block(state, "ddpm-torch", "downsamples.level_0.0", "encoder.0")
    names += [("downsamples.level_0.1.1", "encoder.1.conv")]
    names += block(state, "ddpm-torch", "downsamples.level_1.0", "encoder.2")
    names += [
        ("middle.0." + old, "middle.0." + new) for old, new in zip(RESIDUAL["ddpm-torch"][:5], OURS, strict=False)
    ]
    names += [
        ("middle." + old, "middle.0.attention." + new)
        for old, new in zip(ATTENTION["ddpm-torch"], ("norm", "qkv", "proj"), strict=True)
    ]
    names += [
        ("middle.2." + old, "middle.1." + new) for old, new in zip(RESIDUAL["ddpm-torch"][:5], OURS, strict=False)
    ]
    for i in range(2):
        names += block(state, "ddpm-torch", f"upsamples.level_1.{i}", f"decoder.{i}")
        names += block(state, "ddpm-torch", f"upsamples.level_0.{i}", f"decoder.{i + 3}")
    names += [("upsamples.level_1.2.1", "decoder.2.conv")]
    return renamed_back(state, names)


def improved_diffusion_state(state: dict[str, Tensor], heads: int) -> dict[str, Tensor]:
    """Two levels, one block each, attention in the second, a head with variances; qkv by head."""
    names = [("time_embed.0", "embed.0"), ("time_embed.2", "embed.2"), ("input_blocks.0.0", "first")]
    names += [("out.0", "norm"), ("out.2", "last")]
    names += block(state, "improved-diffusion", "input_blocks.1", "encoder.0", nested=True)
    names += [("input_blocks.2.0.op", "encoder.1.conv")]
    names += block(state, "improved-diffusion", "input_blocks.3", "encoder.2", nested=True)
    pairs = list(zip(RESIDUAL["improved-diffusion"][:5], OURS, strict=False))
    names += [(f"middle_block.0.{old}", f"middle.0.{new}") for old, new in pairs]
    names += [
        ("middle_block." + old, "middle.0.attention." + new)
        for old, new in zip(ATTENTION["improved-diffusion"], ("norm", "qkv", "proj"), strict=True)
    ]
    names += [(f"middle_block.2.{old}", f"middle.1.{new}") for old, new in pairs]
    for theirs, ours in (("0", "0"), ("1", "1"), ("2", "3"), ("3", "4")):
        names += block(state, "improved-diffusion", f"output_blocks.{theirs}", f"decoder.{ours}", nested=True)
    names += [("output_blocks.1.2.conv", "decoder.2.conv")]
    found = renamed_back(state, names)
    for name, value in found.items():
        if ".qkv." in name:
            value = value.unflatten(0, (3, heads, -1)).transpose(0, 1).flatten(0, 2)
            found[name] = value.squeeze(-1) if value.dim() == 4 else value
        elif name.endswith("1.proj_out.weight"):
            found[name] = value.squeeze(-1)
        elif name.startswith("out.2."):
            found[name] = torch.cat([value, torch.ones_like(value)])
    return found


def edm_state(state: dict[str, Tensor], side: int, heads: int, adaptive: bool) -> dict[str, Tensor]:
    """Two levels, one block each; qkv by head and channel."""
    top, low = f"{side}x{side}", f"{side // 2}x{side // 2}"
    last = ("out_norm", "out_conv") if adaptive else (f"dec.{top}_aux_norm", f"dec.{top}_aux_conv")
    names = [("map_layer0", "embed.0"), ("map_layer1", "embed.2"), (f"enc.{top}_conv", "first")]
    names += [(last[0], "norm"), (last[1], "last")]
    places = {
        f"enc.{top}_block0": "encoder.0",
        f"enc.{low}_down": "encoder.1",
        f"enc.{low}_block0": "encoder.2",
        f"dec.{low}_in0": "middle.0",
        f"dec.{low}_in1": "middle.1",
        f"dec.{low}_block0": "decoder.0",
        f"dec.{low}_block1": "decoder.1",
        f"dec.{top}_up": "decoder.2",
        f"dec.{top}_block0": "decoder.3",
        f"dec.{top}_block1": "decoder.4",
    }
    for theirs, ours in places.items():
        names += block(state, "edm", theirs, ours, nested=False)
    found = renamed_back(state, names)
    for name, value in found.items():
        if ".qkv." in name or name.endswith("qkv.weight"):
            found[name] = value.unflatten(0, (3, heads, -1)).movedim(0, 2).flatten(0, 2)
    for place in (f"enc.{low}_down", f"dec.{top}_up"):
        found[f"{place}.conv0.resample_filter"] = torch.full((1, 1, 2, 2), 0.25)
    return found


def write_edm_pickle(path: Path, state: dict[str, Tensor], outer: str, settings: dict[str, Any]) -> None:
    """A pickle as EDM's persistence makes them: modules through a function that would run their source code."""
    package, persistence = types.ModuleType("torch_utils"), types.ModuleType("torch_utils.persistence")

    def _reconstruct_persistent_obj(meta):
        raise AssertionError("the pickled source code is not to be run")

    _reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    persistence._reconstruct_persistent_obj = _reconstruct_persistent_obj

    class Persistent:
        def __init__(self, name: str, state: dict[str, Any]) -> None:
            self.name, self.state = name, state

        def __reduce__(self):
            source = "raise RuntimeError('executed')"
            meta = {"type": "class", "version": 6, "module_src": source, "class_name": self.name, "state": self.state}
            return _reconstruct_persistent_obj, (meta,)

    def module(name: str, tensors: dict[str, Tensor], **attributes: Any) -> Persistent:
        children: dict[str, dict[str, Tensor]] = {}
        own = OrderedDict()
        for key, value in tensors.items():
            child, dot, rest = key.partition(".")
            if dot:
                children.setdefault(child, {})[rest] = value
            else:
                own[key] = nn.Parameter(value)
        modules = OrderedDict((child, module("Part", values)) for child, values in children.items())
        return Persistent(
            name, {"_parameters": own, "_buffers": OrderedDict(), "_modules": modules, "training": False, **attributes}
        )

    sys.modules |= {"torch_utils": package, "torch_utils.persistence": persistence}
    try:
        net = module(outer, {f"model.{name}": value for name, value in state.items()}, label_dim=0, **settings)
        path.write_bytes(pickle.dumps({"ema": net, "loss_fn": None}))
    finally:
        del sys.modules["torch_utils"], sys.modules["torch_utils.persistence"]
