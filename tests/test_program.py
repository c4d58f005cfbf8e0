"""One iteration written out by hand: whose noise a step has, how often a player has moved, what stops a member."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from bench.fit.loop import fit
from bench.fit.program import Program
from bench.fit.tape import Draws, Tape
from bench.noise import generator
from methods.base import Clock, Method, Noise, Player
from methods.parts.optim import SGD
from targets.base import Target
from toy_gaussian import Gaussian


def test_every_block_of_a_seed_has_the_noise_of_its_number():
    tape = Tape([5, 6], Draws(3, 2), torch.device("cpu"), torch.float32)
    length = tape.load(0)
    seen = []
    for block in (0, 1, 7, 1):
        assert tape.load(block * length + length // 2) == (block + 1) * length
        for row, seed in enumerate((5, 6)):
            stream = generator(seed, "train", block)
            assert torch.equal(tape.normals[row], torch.empty(length, 3).normal_(generator=stream))
            assert torch.equal(tape.uniforms[row], torch.empty(length, 2).uniform_(generator=stream))
        seen.append(tape.normals.clone())
    assert not torch.equal(seen[0], seen[1]) and torch.equal(seen[1], seen[3])


@dataclass(frozen=True)
class Counting:
    """A rule that moves by its count, whatever the gradient."""

    lr: float = 1.0
    slots = ()

    def step(self, grad, slots, count):
        return torch.zeros_like(grad) + count, {}


class Two(Method):
    """q moves once per iteration, the critic three times from iteration 2 on; they draw differently much."""

    def __init__(self, target: Target, **critic: object) -> None:
        super().__init__(target)
        self.q = torch.nn.Parameter(torch.zeros(()))
        self.critic = torch.nn.Parameter(torch.zeros(()))
        self.options = {"optimiser": Counting(), "steps": 3, "start": 2, **critic}

    def players(self):
        return [
            Player("q", ("q",), loss=lambda noise, clock: self.q * noise.normal(2).sum(), optimiser=SGD(1.0)),
            Player("critic", ("critic",), loss=self.regression, **self.options),
        ]

    def regression(self, noise: Noise, clock: Clock) -> torch.Tensor:
        return self.critic * (noise.normal(3).sum() + noise.uniform(4).sum())


def test_no_two_steps_of_an_iteration_share_noise():
    program = Program(Two(Gaussian()), 10)
    shares = [share for _, _, share in program.shares()]
    for kind, count in enumerate((program.draws_per_iteration.normals, program.draws_per_iteration.uniforms)):
        assert [i for share in shares for i in range(count)[share[kind]]] == list(range(count))
    assert (program.draws_per_iteration.normals, program.draws_per_iteration.uniforms) == (2 + 3 * 3, 3 * 4)


def test_steps_are_counted_from_a_players_first_over_all_of_its_own():
    run = fit([Two(Gaussian())], [0], 4)
    assert float(run.state["theta/critic"]) == -(1 + 2 + 3 + 4 + 5 + 6)


@pytest.mark.parametrize("warm_up", [False, True])
def test_the_average_is_taken_at_every_step_and_is_what_is_evaluated(warm_up):
    run = fit([Two(Gaussian(), ema=0.25, ema_warm_up=warm_up)], [0], 4)
    theta = average = 0.0
    for moved in range(1, 7):
        theta -= moved
        keep = min(0.25, (1 + moved) / (10 + moved)) if warm_up else 0.25
        average += (1 - keep) * (theta - average)
    assert run.member(0, Two(Gaussian())).critic.item() == pytest.approx(average)


class Carrying(Method):
    """A loss that stays finite beside a buffer that does not."""

    carried = ("particles",)

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self.q = torch.nn.Parameter(torch.zeros(()))
        self.register_buffer("particles", torch.zeros(2))

    def players(self):
        return [Player("q", ("q",), loss=self.loss, optimiser=SGD(0.1))]

    def loss(self, noise: Noise, clock: Clock):
        moved = torch.where(clock.step == 5, torch.inf, self.particles + 1)
        return (self.q - noise.normal()).square(), {"particles": moved}


def test_what_a_step_carries_stops_a_member_as_its_loss_does():
    run = fit([Carrying(Gaussian())], [0], 6)
    assert run.diverged_at(0) == 5
    assert torch.equal(run.state["buf/particles"], torch.full((1, 2), 5.0))
