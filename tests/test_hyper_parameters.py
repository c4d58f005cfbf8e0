"""Hyper-parameters that no method can mean are refused, over the registry."""

from __future__ import annotations

import pytest

from bench.errors import UserError
from bench.registry import entries
from toy_gaussian import Gaussian
from toy_images import ToyImages

AVERAGES = ("beta1", "beta2", "beta2_critic", "ema", "smoothing")
"""Decays of running averages: at 1 the average never leaves its first value."""

SHARES = ("anneal", "decay", "jump")
"""Parts of a whole and factors on the learning rate: 1 is a choice like others."""


def of(names: tuple[str, ...]) -> list[tuple[str, str]]:
    """(method, hyper-parameter) of those methods that have it as a number."""
    found = entries("method").items()
    return [
        (n, k)
        for n, e in sorted(found)
        for k in names
        if k in e.parameters and "float" in str(e.parameters[k].annotation)
    ]


def make(name: str, **values: float):
    method = entries("method")[name].obj
    return method(ToyImages() if "images" in method.needs else Gaussian(), **{**method.cheap, **values})


@pytest.mark.parametrize("name, key", of(AVERAGES))
def test_an_average_that_would_stand_still_is_refused(name, key):
    with pytest.raises(UserError, match=rf"method\.{key}=1\.0 must be at least 0 and below 1"):
        make(name, **{key: 1.0})
    make(name, **{key: 0.999})


@pytest.mark.parametrize("name, key", of(SHARES))
def test_the_whole_is_a_share(name, key):
    make(name, **{key: 1.0})
    with pytest.raises(UserError, match=rf"method\.{key}=-0\.5 must"):
        make(name, **{key: -0.5})
