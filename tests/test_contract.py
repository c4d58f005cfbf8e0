"""The contract of a method: two methods written against it alone, and what its page quotes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from bench.fit.loop import fit
from bench.fit.members import initialise
from methods.base import Method, Player
from methods.parts.optim import Adam
from toy_gaussian import COVARIANCE, MEAN, Gaussian

ROOT = Path(__file__).parents[1]
QUOTES = re.findall(r"```python (\S+)\n(.*?)```", (ROOT / "docs/contract.md").read_text(), re.DOTALL)
assert QUOTES


@pytest.mark.parametrize("file, quote", QUOTES, ids=[file for file, _ in QUOTES])
def test_the_page_quotes_the_code(file, quote):
    left = iter([line.strip() for line in (ROOT / file).read_text().splitlines()])
    missing = [line for line in quote.splitlines() if line and line.strip() not in left]  # in order, with gaps
    assert not missing


class Particles(Method):
    """SVGD: the particles are the parameters, the direction enters as a surrogate loss."""

    needs = frozenset({"score"})

    def __init__(self, target):
        super().__init__(target)
        self.particles = nn.Parameter(torch.randn(50, target.dim))

    def players(self):
        return [Player("particles", ("particles",), loss=self.loss, optimiser=Adam(0.05))]

    def loss(self, noise, clock):
        x = self.particles
        difference = x.unsqueeze(1) - x.unsqueeze(0)
        kernel = torch.exp(-0.5 * difference.square().sum(-1))
        drift = kernel @ self.target.score(x)
        repulsion = (kernel.unsqueeze(-1) * difference).sum(1)
        return -(((drift + repulsion) / len(x)).detach() * x).sum()

    def sample(self, n, noise):
        return self.particles[(noise.uniform(n) * len(self.particles)).long()]


class MatchScores(Method):
    """A full-rank Gaussian by closed-form score matching: regress the score on x, no gradient anywhere."""

    needs = frozenset({"score"})
    carried = ("moves",)

    def __init__(self, target):
        super().__init__(target)
        self.mean = nn.Parameter(torch.randn(target.dim))
        self.tril = nn.Parameter(torch.eye(target.dim))
        self.register_buffer("moves", torch.zeros(()))

    def players(self):
        return [Player("q", ("mean", "tril"), update=self.match)]

    def match(self, noise, clock):
        x = self.mean + noise.normal(64, 2) @ self.tril.T
        design = torch.cat([x, torch.ones(64, 1)], dim=1)
        # s(x) = -P (x - m): a linear regression gives P and P m
        solution = torch.linalg.solve_ex(design.T @ design, design.T @ self.target.score(x)).result
        covariance = torch.linalg.inv_ex(-(solution[:2] + solution[:2].T) / 2).inverse
        mean = covariance @ solution[2]
        return {"mean": mean, "tril": torch.linalg.cholesky_ex(covariance).L, "moves": self.moves + 1}


def test_particle_method():
    members = initialise(lambda: Particles(Gaussian()), [0, 1, 2])
    run = fit(members, [0, 1, 2], 500)
    for row in range(3):
        x = run.member(row, members[0]).particles.detach()
        torch.testing.assert_close(x.mean(0), MEAN, atol=0.1, rtol=0)
        # a finite SVGD ensemble is a little too narrow
        torch.testing.assert_close(torch.cov(x.T), COVARIANCE, atol=0.25, rtol=0)


def test_closed_form_update_with_carried_state():
    members = initialise(lambda: MatchScores(Gaussian()), [0, 1, 2])
    run = fit(members, [0, 1, 2], 3)
    for row in range(3):
        q = run.member(row, members[0])
        torch.testing.assert_close(q.mean.detach(), MEAN, atol=1e-3, rtol=0)
        torch.testing.assert_close((q.tril @ q.tril.T).detach(), COVARIANCE, atol=1e-3, rtol=0)
        assert float(q.moves) == 3
