"""The baseline: one seed at a time, ordinary autograd and ``torch.optim``, as a published script trains.

Each player's loss is differentiated with respect to every parameter (the scripts do not detach the other networks)
and its own optimiser steps.  Where a component registers a ``baseline`` under its name, that function replaces what
the suite does cleverly: for a method ``(method, player, noise, clock) -> loss``, for a target ``(target, x) ->
score``.  None of the C++ passes is used.  A player without a loss is updated as it says; carried buffers take the
values that a loss returns beside its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from bench.native import switched_off
from bench.noise import DirectNoise, generator
from bench.registry import Entry, entries, import_modules
from methods.base import Clock, Method, Noise, Player
from methods.parts.optim import SGD, Adam, AMSGrad, Blocks, Optimiser, RMSprop


def baselines() -> dict[str, Entry]:
    """The registered baselines by the name of their method or target; their modules are read here and nowhere else."""
    for package in ("methods.baselines", "targets.baselines"):
        import_modules(package)
    return entries("baseline")


def plain_step(method: Method, iterations: int, seed: int = 0) -> Callable[[], None]:
    """A callable that performs one iteration of one seed."""
    parameter = next(method.parameters())
    # drawn where it is used, as the suite's
    noise = DirectNoise(generator(seed, "speed", device=parameter.device), parameter.device, parameter.dtype)
    known = baselines()
    plain_loss = known.get(method.registered_name)
    plain_score = known.get(method.target.registered_name)
    if plain_score is not None:
        score = partial(plain_score.obj, method.target)
        method.target.score = score  # type: ignore[method-assign]  # on this one object only
    baseline = None if plain_loss is None else plain_loss.obj
    moving = [player for player in method.players() if player.moves_at(iterations - 1)]  # as the suite's step
    moves = [_move(method, player, noise, baseline) for player in moving]
    done = 0

    def step() -> None:
        nonlocal done
        clock = Clock(torch.tensor(float(done)), iterations)
        with switched_off():
            for move in moves:
                move(clock)
        done += 1

    return step


def _move(method: Method, player: Player, noise: Noise, baseline: Callable | None) -> Callable[[Clock], None]:
    """All of a player's steps in one iteration."""
    if player.loss is None:
        return partial(_update, method, player, noise)
    owned = [
        p
        for n, p in method.named_parameters()
        if p.requires_grad and any(n == o or n.startswith(o + ".") for o in player.owns)
    ]
    optimiser, average = _optimiser(player.optimiser, owned), [p.detach().clone() for p in owned]
    loss_of = player.loss if baseline is None else partial(baseline, method, player)

    def move(clock: Clock) -> None:
        for _ in range(player.steps):
            method.zero_grad()
            result = loss_of(noise, clock)
            loss, buffers = result if isinstance(result, tuple) else (result, {})
            loss.backward()
            if player.clip is not None:
                torch.nn.utils.clip_grad_norm_(owned, player.clip)
            for group in optimiser.param_groups:
                group["lr"] = player.optimiser.lr * float(player.schedule(clock))
            optimiser.step()
            _assign(method, buffers)
            if player.ema is not None:
                torch._foreach_lerp_(average, [p.detach() for p in owned], 1 - player.ema)

    return move


@torch.no_grad()
def _update(method: Method, player: Player, noise: Noise, clock: Clock) -> None:
    assert player.update is not None
    for _ in range(player.steps):
        _assign(method, player.update(noise, clock))


@torch.no_grad()
def _assign(method: Method, values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        owner, _, attribute = name.rpartition(".")
        getattr(method.get_submodule(owner), attribute).copy_(value)


def _optimiser(rule: Optimiser, owned: list[nn.Parameter]) -> torch.optim.Optimizer:
    if isinstance(rule, Blocks):  # only the learning rates differ, which costs nothing
        rule = rule.rule
    if isinstance(rule, Adam):
        return torch.optim.Adam(owned, rule.lr, rule.betas, rule.eps, amsgrad=isinstance(rule, AMSGrad))
    if isinstance(rule, RMSprop):
        return torch.optim.RMSprop(owned, rule.lr, rule.alpha, rule.eps)
    if isinstance(rule, SGD):
        return torch.optim.SGD(owned, rule.lr)
    raise TypeError(f"no torch.optim twin of {type(rule).__name__}")
