"""The baseline: one seed at a time, ordinary autograd and ``torch.optim``, as the published scripts train.

Each player's loss is differentiated with respect to every parameter (the scripts do not detach the other networks) and
its own optimiser steps.  Where a component registers a ``baseline`` under its name, that function replaces what the
suite does cleverly: for a method ``(method, player, noise, clock) -> loss``, for a target ``(target, x) -> score``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from bench.noise import DirectNoise, generator
from bench.registry import entries
from methods.base import Clock, Method, Player
from methods.optim import SGD, Adam, Blocks, Optimiser, RMSprop


def plain_step(method: Method, iterations: int, seed: int = 0) -> Callable[[], None]:
    """A callable that performs one iteration of one seed."""
    parameter = next(method.parameters())
    noise = DirectNoise(generator(seed, "speed"), parameter.device, parameter.dtype)
    baselines = entries("baseline")
    published_loss = baselines.get(method.registered_name)
    published_score = baselines.get(method.target.registered_name)
    if published_score is not None:
        score = partial(published_score.obj, method.target)
        method.target.score = score  # type: ignore[method-assign]  # on this one object only
    players = [(player, _optimiser(method, player)) for player in method.players()]
    done = 0

    def step() -> None:
        nonlocal done
        clock = Clock(torch.tensor(float(done)), iterations)
        for player, optimiser in players:
            for _ in range(player.steps):
                method.zero_grad()
                if published_loss is not None:
                    loss = published_loss.obj(method, player, noise, clock)
                elif player.loss is not None:
                    loss = player.loss(noise, clock)
                else:
                    raise TypeError(f"player {player.name!r} has no loss")
                loss.backward()
                optimiser.step()
        done += 1

    return step


def _optimiser(method: Method, player: Player) -> torch.optim.Optimizer:
    owned = [
        p
        for n, p in method.named_parameters()
        if p.requires_grad and any(n == o or n.startswith(o + ".") for o in player.owns)
    ]
    rule: Optimiser = player.optimiser
    if isinstance(rule, Blocks):  # only the learning rates differ, which costs nothing
        rule = rule.rule
    if isinstance(rule, Adam):
        return torch.optim.Adam(owned, rule.lr, rule.betas, rule.eps)
    if isinstance(rule, RMSprop):
        return torch.optim.RMSprop(owned, rule.lr, rule.alpha, rule.eps)
    if isinstance(rule, SGD):
        return torch.optim.SGD(owned, rule.lr)
    raise TypeError(f"no torch.optim twin of {type(rule).__name__}")
