"""The configurations of HSIVI-SM's image experiments: what the released scripts say, and what follows from it."""

from __future__ import annotations

import pytest

from bench.config import Config, compose
from bench.reproduce.tables import load_table
from bench.teacher import configuration
from targets.diffusion.grids import time_grid
from targets.diffusion.schedule import cosine_schedule, linear_schedule

SETS = ("cifar10", "celeba64", "imagenet64")

GRIDS = {
    ("quad", 5): (0, 32, 128, 288, 512, 800),
    ("quad", 10): (0, 8, 32, 72, 128, 200, 288, 392, 512, 648, 800),
    ("quad", 15): (0, 4, 14, 32, 57, 89, 128, 174, 228, 288, 356, 430, 512, 601, 697, 800),
    ("uniform", 5): tuple(range(0, 831, 166)),
    ("uniform", 10): tuple(range(0, 901, 90)),
    ("uniform", 15): tuple(range(0, 931, 62)),
}
"""tau_0..tau_N of the released code."""


def cells(data: str, row: str = "HSIVI-SM") -> dict[int, Config]:
    found = {}
    for spec in load_table(f"hsivi_{data}").cells:
        if spec.row == row:
            config = compose([*spec.overrides, "seeds=[0]"])
            found[config.method["nfe"]] = config
    return found


@pytest.mark.parametrize("data", SETS)
def test_settings_of_the_scripts(data):
    found = cells(data)
    rates = {"cifar10": (1.6e-5, 8e-5), "celeba64": (1e-5, 5e-5), "imagenet64": (1e-5, 5e-5)}[data]
    slow = {"cifar10": (1.6e-6, 8e-7), "celeba64": (1e-6, 5e-6), "imagenet64": (1e-6, 5e-6)}[data]
    assert sorted(found) == [5, 10, 15]
    for nfe, config in found.items():
        method = config.method
        assert (method["lr"], method["lr_critic"]) == (slow if nfe == 5 else rates)
        assert method["batch"] * config.train["processes"] == (256 if data == "imagenet64" else 128)
        assert (method["eta"], method["gamma"], method["alpha"], method["clip"]) == (0.2, "pixel", 0.5, 1.0)
        assert (method["critic_steps"], method["ema"], method["warm_up"]) == (20, 0.999, 2500)
        assert method["critic_steps"] * config.train["iterations"] == 200_000
        assert method["decay"] == ("staircase" if data == "cifar10" else "cosine")
        schedule = cosine_schedule() if data == "imagenet64" else linear_schedule()
        assert time_grid(method["grid"], nfe, schedule) == GRIDS[method["grid"], nfe]
        assert method["grid"] == ("uniform" if data == "imagenet64" else "quad")


@pytest.mark.parametrize("data", SETS)
def test_solvers_run_on_the_same_grid(data):
    for row in ("DDIM", "DDPM", "DPM-Solver++ (2M)", "UniPC", "DEIS"):
        assert {nfe: c.method["grid"] for nfe, c in cells(data, row).items()} == {
            nfe: c.method["grid"] for nfe, c in cells(data).items()
        }


@pytest.mark.parametrize("data", SETS)
def test_five_layers_start_from_ten(data):
    """``conf/teacher`` trains the student of 10 layers under the id that the cell of 5 layers names."""
    found = cells(data)
    first = configuration(f"hsivi_{data}")
    assert first.run_id(0) == found[10].run_id(0) == found[5].method["start"]
    assert found[10].method["start"] == found[15].method["start"] == ""
