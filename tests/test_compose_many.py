"""``Composer`` against ``compose``: the same configurations and the same errors, whatever was composed before."""

from __future__ import annotations

import itertools
from copy import deepcopy
from functools import cache

import pytest

from bench.config import Composer, compose
from bench.config import many as composing
from bench.config.compose import compose_raw
from bench.errors import UserError

MIXED = [
    "method=ksivi tuned=none method.lr=0.5 train.iterations=7",
    "method=ksivi target=multimodal",
    "method=ksivi target=banana",
    "method=ksivi tuned=none wandb.project=foo eval.curve_points=3",
    "method=ksivi tuned=none eval={samples:9}",
    "target=funnel tuned=none target.dim=7",
    "method=meanfield target=funnel",
    "train.iterations=5",
    "train={dtype:float64}",
]
"""Cells of a sweep whose parts Hydra composes in every way there is: together, apart, with a tuned file and without."""


def test_many_configurations_are_those_that_hydra_composes_one_by_one(monkeypatch):
    calls = []
    monkeypatch.setattr(composing, "compose_raw", lambda groups: calls.append(groups) or compose_raw(groups))
    composer = Composer()
    values = [
        [f"method={m}", f"target={t}", f"train.iterations={i}", "method.hidden=[3,3]", *more]
        for m in ("sivi", "ksivi")
        for t in ("banana", "x_shaped")
        for i in (5, 6)
        for more in ([], ["tuned=none"], ["eval={samples: 3}", "seeds=[1,4]"])
    ]
    for overrides in values:
        assert composer(overrides) == compose(overrides)
    assert len(calls) == 8 and len(values) == 24  # not once per budget
    for wrong in (["method.nope=1"], ["method=nope"], ["train.iterations=0"], ["train.iterations=x"], ["seeds=1,2"]):
        messages = []
        for way in (composer, compose):
            with pytest.raises(UserError) as error:
                way(wrong)
            messages.append(str(error.value))
        assert messages[0] == messages[1]


@cache
def _once(groups: tuple[str, ...]):
    return compose_raw(groups)


def test_no_cell_changes_those_that_come_after_it(monkeypatch):
    monkeypatch.setattr(composing, "compose_raw", lambda groups: deepcopy(_once(groups)))
    cells = [line.split() for line in MIXED]
    expected = [compose(cell) for cell in cells]
    places = range(len(cells))
    for order in [places, places[::-1], *itertools.permutations(places, 2)]:
        composer = Composer()
        for place in [*order, *order]:  # the second time, everything comes from what is kept
            assert composer(cells[place]) == expected[place], [cells[i] for i in order]
