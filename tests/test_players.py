"""Options of optimisers reach the players they are named for, over the registry."""

from __future__ import annotations

import math

import pytest
import torch

from bench.registry import entries
from methods.aisivi import AISIVI
from methods.base import Clock
from methods.parts.optim import Adam, RMSprop
from methods.sivi import SIVI
from methods.sivism import SIVISM
from methods.svgd import SVGD
from methods.uivi import UIVI
from toy_gaussian import Gaussian

OWN = {"lr_critic": "critic", "lr_flow": "flow", "lr_proposal": "proposal", "lr_reverse": "tau", "lr_scale": "scale"}
"""Rates of one player, and how its name begins; ``lr`` is that of the others."""
CONTINUOUS = {"sivi", "dsivi", "pvi"}
UNSCHEDULED = {("kpg_is", "proposal")}  # as in its code
METHODS = [(n, {}) for n, e in sorted(entries("method").items()) if {"lr", "decay_every"} <= set(e.parameters)]
METHODS += [("sivi", {"covariance": "full"}), ("iwhvi", {"dreg": True}), ("hsivi_sm", {"training": "sequential"})]

DISTILLED = [n for n, e in sorted(entries("method").items()) if "critic_first" in e.parameters]


@pytest.mark.parametrize("name, options", METHODS, ids=lambda v: v if isinstance(v, str) else "-".join(v))
def test_rates_and_their_decay_reach_their_players(name, options):
    entry = entries("method")[name]
    known = set(entry.parameters)
    if name == "sivi" and not options:
        known.remove("lr_scale")  # of a full covariance alone, and refused without
    rates = {"lr": 0.01, **{key: 0.02 + 0.01 * i for i, key in enumerate(OWN) if key in known}}
    betas = {key: value for key, value in (("beta1", 0.3), ("beta2", 0.7)) if key in known}
    limits = {key: value for key, value in (("clip", 3.0), ("ema", 0.4)) if key in known}
    method = entry.obj(
        Gaussian(), **{**entry.obj.cheap, **rates, **betas, **limits, "decay": 0.5, "decay_every": 3, **options}
    )
    players = [player for player in method.players() if player.loss is not None]
    seen = set()
    for player in players:
        key = next((key for key in rates if key in OWN and player.name.startswith(OWN[key])), "lr")
        seen.add(key)
        assert player.optimiser.lr == pytest.approx(rates[key]), player.name
        if len(betas) == 2 and player.name != "proposal":
            assert player.optimiser.betas == (0.3, 0.7), player.name
        if key == "lr":
            assert (player.clip, player.ema) == (limits.get("clip"), limits.get("ema"))
        for step in (0.0, 2.0, 3.0, 7.0):
            exponent = 0 if (name, player.name) in UNSCHEDULED else step / 3 if name in CONTINUOUS else step // 3
            assert float(player.schedule(Clock(torch.tensor(step), 100))) == pytest.approx(0.5**exponent), player.name
    assert seen == set(rates)


@pytest.mark.parametrize("decay", ["cosine", "none"])
@pytest.mark.parametrize("name", DISTILLED)
def test_options_of_distillation_reach_critic_and_student(name, decay):
    """Rates grow over four iterations; a cosine spans those in which the player moves."""
    rates = {"lr": 0.01, "lr_critic": 0.02, "beta1": 0.3, "beta2": 0.7, "clip": 3.0, "ema": 0.4, "decay": decay}
    counts, entry = {"critic_steps": 7, "critic_first": 20, "warm_up": 4}, entries("method")[name]
    critic, student = entry.obj(Gaussian(), **{**entry.obj.cheap, **rates, **counts}).players()
    assert (critic.name, critic.owns, critic.optimiser) == ("critic", ("critic",), Adam(0.02, (0.3, 0.7)))
    assert (critic.clip, critic.ema, critic.steps, critic.start) == (3.0, None, 7, 0)
    assert (student.name, student.owns, student.optimiser) == ("student", ("student",), Adam(0.01, (0.3, 0.7)))
    assert (student.clip, student.ema, student.ema_warm_up, student.steps, student.start) == (3.0, 0.4, True, 1, 20)
    for player, moves in ((critic, 100), (student, 80)):
        for step, up in ((0, 0.25), (1, 0.5), (3, 1.0), (40, 1.0)):
            down = (1 + math.cos(math.pi * step / moves)) / 2 if decay == "cosine" else 1.0
            assert float(player.schedule(Clock(torch.tensor(float(step)), 100))) == pytest.approx(up * down)


def test_the_critics_own_rates_and_decays():
    players = SIVISM(Gaussian(), beta2=0.7, beta2_critic=0.8, critic_warm=2, critic_warm_lr=0.05).players()
    rules = {p.name: (p.optimiser.lr, p.optimiser.betas) for p in players}
    assert rules == {"critic_warm": (0.05, (0.9, 0.8)), "q": (1e-3, (0.9, 0.7)), "critic": (2e-3, (0.9, 0.8))}


def test_the_flows_rate_rests_while_it_is_pretrained():
    flow = AISIVI(Gaussian(), pretrain=4, decay=0.5, decay_every=3).players()[0]
    assert [float(flow.schedule(Clock(torch.tensor(s), 100))) for s in (0.0, 6.0, 7.0, 10.0)] == [1.0, 1.0, 0.5, 0.25]


def test_rules_of_the_codes_optimisers():
    players = SIVISM(Gaussian(), optimiser="rmsprop", rms_eps=0.5, lr=0.02, lr_critic=0.03).players()
    assert [p.optimiser for p in players] == [RMSprop(0.02, 0.9, 0.5), RMSprop(0.03, 0.9, 0.5)]
    (player,) = UIVI(Gaussian(), lr=0.02).players()
    assert player.optimiser.rule == RMSprop(0.02, 0.9, 1.0, from_first=True)
    assert SVGD(Gaussian(), lr=0.2).players()[0].optimiser == RMSprop(0.2, 0.9, 1e-6, from_first=True)


def test_the_scale_of_a_full_covariance_comes_to_rest():
    players = SIVI(Gaussian(), covariance="full", scale_until=7).players()
    assert {p.name: (p.start, p.until) for p in players} == {"mean": (0, None), "scale": (0, 7)}


@pytest.mark.parametrize("name", ["sivism", "hsivi_sm"])
def test_the_critic_moves_so_many_times_per_iteration(name):
    entry = entries("method")[name]
    players = entry.obj(Gaussian(), **{**entry.obj.cheap, "critic_steps": 4}).players()
    assert {p.steps for p in players if p.name.startswith("critic")} == {4}
    assert {p.steps for p in players if not p.name.startswith("critic")} == {1}
