"""Losses and updates stay on one device: shapes run on ``meta``, where a tensor made on the CPU is found out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from bench.noise import DirectNoise, generator
from bench.registry import entries
from methods.base import Clock
from methods.diffusion.data import spread
from targets.images.digits import Digits
from toy_gaussian import Gaussian
from toy_images import ToyImages

METHODS = sorted(name for name, entry in entries("method").items() if getattr(entry.obj, "trained", True))
# branches of the losses that the options of ``cheap`` do not enter
BRANCHES: dict[str, list[dict[str, Any]]] = {
    "cosim": [{"draws": "reference", "weight": "x0"}, {"network": "teacher"}],
    "ddpm": [{"weight": "min_snr", "times": "uniform"}],
    "emd": [{"student_score": "mixture"}, {"nfe": 2, "network": "teacher"}],
    "hsivi_diffusion": [
        {"nfe": 3, "layer": "dpmpp", "rows": "antithetic", "gamma": "coordinate", "network": "shared"},
        {"network": "teacher_per_layer"},
    ],
    "hsivi_image": [{"recompute": True, "precision": "bfloat16"}],
    "sid": [{"nfe": 2, "eta": (0.5,), "weight": "paper"}],
    "vdm": [{"interior": "learned"}, {"interior": "learned", "timesteps": 10}],
}


class Shapes:
    """``Noise`` without numbers."""

    def normal(self, *shape: int) -> Tensor:
        return torch.empty(shape, device="meta")

    uniform = normal


class OnMeta(TorchFunctionMode):
    """Refuses tensors elsewhere, but for numbers (0-dim); products and look-ups on ``meta`` alone would let them in.

    And tensors of Python numbers: on a GPU each is a copy that waits for the host.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (torch.tensor, Tensor.new_tensor):
            raise AssertionError(f"{func.__name__}: a tensor of numbers, make it a buffer")
        out = func(*args, **(kwargs or {}))
        for value in (*args, *(kwargs or {}).values(), out):
            if isinstance(value, Tensor) and value.dim() and value.device.type != "meta":
                raise AssertionError(f"{func.__name__}: a tensor {tuple(value.shape)} on {value.device}")
        return out


def check(name: str, target: Any, options: dict[str, Any]) -> None:
    cls = entries("method")[name].obj
    method = cls(target, **{**cls.cheap, **options}).to("meta")
    for player in method.players():
        with OnMeta():
            found = (player.loss or player.update)(Shapes(), Clock(torch.zeros((), device="meta"), 100))
        loss, changed = (found, {}) if isinstance(found, Tensor) else (None, found) if player.loss is None else found
        assert loss is None or (loss.device.type == "meta" and loss.shape == ())
        assert all(value.device.type == "meta" for value in changed.values())


def test_the_methods_are_found():
    assert {"cosim", "ddpm", "diff_instruct", "emd", "hsivi_diffusion", "sid", "vdm"} <= set(METHODS)
    assert set(BRANCHES) <= set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_no_loss_mixes_devices(name):
    for options in ({}, *BRANCHES.get(name, [])):
        copies = name == "hsivi_image" or options.get("network", "").startswith("teacher")
        check(name, ToyImages() if copies else Gaussian(), options)


def test_the_bound_on_pixels_does_not_mix_devices():
    check("vdm", Digits(teacher="none"), {})


def test_the_unet_does_not_mix_devices():
    pytest.importorskip("diffusers")
    check("ddpm", Digits(teacher="none"), {"network": "unet", "channels": (8,), "layers": 1, "attention": (0,)})


@pytest.mark.parametrize("n", [1, 7, 256, 1000])
def test_spread_times_keep_their_bits(n):
    """Recorded teachers were trained at these times: u + i / n modulo 1, in float32."""
    u = DirectNoise(generator("spread", n)).uniform(1)
    expected = torch.stack([(u[0] + torch.tensor(i) / n) % 1.0 for i in range(n)])
    found = spread(n, DirectNoise(generator("spread", n)))
    assert found.dtype == torch.float32 and torch.equal(found, expected)
