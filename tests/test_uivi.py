"""UIVI: the score identity, an HMC that leaves the conditional invariant, the adaptation, the carried step size."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from bench.fit.program import Program
from bench.fit.tape import Tape
from bench.noise import DirectNoise, generator
from methods.base import Clock
from methods.parts import hmc
from methods.uivi import SD_FLOOR, UIVI
from toy_gaussian import Gaussian

CHAINS = 20_000


def noise(*parts: object) -> DirectNoise:
    return DirectNoise(generator("uivi", *parts))


def linear(**arguments: object) -> UIVI:
    """q(x) = N(b, W W^T + sigma^2 I) with an exact reverse conditional."""
    method = UIVI(Gaussian(), noise_dim=2, hidden=(), **arguments)
    with torch.no_grad():
        method.q.mean[0].weight.copy_(torch.tensor([[1.2, 0.1], [-0.5, 0.6]]))
        method.q.mean[0].bias.copy_(torch.tensor([0.5, 0.2]))
    return method


def reverse_conditional(method: UIVI, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean [n, k] and covariance [k, k] of q(z | x) of a linear method."""
    layer = method.q.mean[0]
    W, b, precision = layer.weight.detach(), layer.bias.detach(), 1 / method.q.sigma.detach().square()
    covariance = torch.linalg.inv(torch.eye(2) + W.T @ (precision[:, None] * W))
    return (x - b) * precision @ W @ covariance, covariance


def assert_law(z: torch.Tensor, mean: torch.Tensor, covariance: torch.Tensor) -> None:
    """Mean and covariance of independent draws z [n, k] within 4.5 standard errors."""
    n, sd = len(z), covariance.diagonal().sqrt()
    assert ((z.mean(0) - mean).abs() < 4.5 * sd / math.sqrt(n)).all()
    error = torch.cov(z.T) - covariance
    assert (error.abs() < 4.5 * math.sqrt(2 / n) * sd[:, None] * sd).all()


@pytest.mark.parametrize("step", [0.25, 0.6], ids=["most accepted", "many rejected"])
def test_hmc_leaves_the_conditional_invariant(step):
    method = linear()
    x = torch.tensor([[1.0, -0.5]]).expand(CHAINS, 2)
    mean, covariance = reverse_conditional(method, x)

    def density(z):
        return method.conditional(z).log_prob(x) - 0.5 * z.square().sum(-1)

    source = noise("invariant", step)
    z = mean + source.normal(CHAINS, 2) @ torch.linalg.cholesky(covariance).T
    with torch.no_grad():
        chain = hmc.start(density, z)
        for _ in range(3):
            chain, accept = hmc.transition(density, chain, torch.tensor(step), source, 3)
    assert (accept.mean() > 0.9) == (step < 0.5) and accept.mean() > 0.2
    assert_law(chain.z, mean[0], covariance)
    again = hmc.start(density, chain.z)  # what the chain carries is what belongs to its place
    torch.testing.assert_close((again.log_prob, again.gradient), (chain.log_prob, chain.gradient))


def test_hmc_reaches_the_conditional_from_elsewhere():
    method = linear()
    x = torch.tensor([[1.0, -0.5]]).expand(CHAINS, 2)

    def density(z):
        return method.conditional(z).log_prob(x) - 0.5 * z.square().sum(-1)

    source = noise("reach")
    with torch.no_grad():
        chain = hmc.start(density, 2 + source.normal(CHAINS, 2))
        for _ in range(25):
            chain, _ = hmc.transition(density, chain, torch.tensor(0.4), source, 4)
    mean, covariance = reverse_conditional(method, x)
    assert_law(chain.z, mean[0], covariance)


def test_score_of_q_is_the_averaged_conditional_score():
    """Over pairs (z, x) with the same x the estimate has mean grad log q(x), known for a linear Gaussian."""
    method = linear(burn_in=2, samples=2, leapfrog=3)
    layer, sigma = method.q.mean[0], method.q.sigma.detach()
    covariance_x = layer.weight.detach() @ layer.weight.detach().T + sigma.square().diag()
    source = noise("identity")
    for point in ([1.0, -0.5], [-2.0, 1.0]):
        x = torch.tensor([point]).expand(CHAINS, 2)
        mean, covariance = reverse_conditional(method, x)
        z = mean + source.normal(CHAINS, 2) @ torch.linalg.cholesky(covariance).T
        with torch.no_grad():
            estimate, _ = method.score_q(x, z, torch.tensor(0.4), source)
        exact = -torch.linalg.solve(covariance_x, x[0] - layer.bias.detach())
        error = estimate.std(0) / math.sqrt(CHAINS)
        assert ((estimate.mean(0) - exact).abs() < 4.5 * error).all()
        assert (error < 0.02 * exact.norm()).all()


def test_a_trajectory_that_explodes_is_rejected():
    chain = hmc.start(lambda z: -z.pow(4).sum(-1), torch.tensor([[1.0], [2.0]]))
    kept, accept = hmc.transition(lambda z: -z.pow(4).sum(-1), chain, torch.tensor(50.0), noise("explode"), 6)
    assert torch.equal(kept.z, chain.z) and (accept == 0).all() and kept.gradient.isfinite().all()


def test_adaptation_moves_towards_its_target():
    step = torch.tensor(0.5)
    assert hmc.adapted(step, torch.ones(4)) > step > hmc.adapted(step, torch.full((4,), 0.8))
    torch.testing.assert_close(hmc.adapted(step, torch.full((4,), 0.9)), step)
    # UIVI's code: eps + 0.01 (a - 0.9) / 0.9 eps
    torch.testing.assert_close(hmc.adapted(step, torch.tensor([0.0, 0.9])), step - 0.01 * 0.5 * 0.5)


def test_adapted_step_reaches_the_acceptance_it_aims_at():
    source, step = noise("adapt"), torch.tensor(1.6)  # too large for a standard normal in ten dimensions

    def density(z):
        return -0.5 * z.square().sum(-1)

    chain, seen = hmc.start(density, source.normal(50, 10)), []
    for _ in range(400):
        chain, accept = hmc.transition(density, chain, step, source, 3)
        step = hmc.adapted(step, accept)
        seen.append(accept.mean())
    assert torch.stack(seen[:20]).mean() < 0.8
    assert abs(torch.stack(seen[-50:]).mean() - 0.9) < 0.03


def test_gradient_vanishes_where_q_is_the_target_and_not_elsewhere():
    def gradient(shift: float) -> torch.Tensor:
        # The chain starts at the z that made x: only once it has forgotten z is its score independent of the path.
        # Half a period of z's narrow direction (sd 0.36) would only turn it over: travel a quarter of one.
        chain = {"burn_in": 16, "samples": 2, "leapfrog": 2, "step_size": 0.3}
        method = UIVI(Gaussian(), outer=CHAINS, noise_dim=2, hidden=(), sd=0.5, **chain)
        with torch.no_grad():
            covariance = torch.tensor([[1.0, 0.6], [0.6, 1.0]]) - 0.25 * torch.eye(2)
            method.q.mean[0].weight.copy_(torch.linalg.cholesky(covariance))
            method.q.mean[0].bias.fill_(1.0 + shift)
        loss, _ = method.loss(noise("zero"), Clock(torch.zeros(()), 10))
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(method.q.parameters()))])

    assert gradient(0.0).norm() < 0.1 * gradient(0.5).norm()


def test_the_step_size_is_carried_and_adapted_in_burn_in_only():
    method = linear(burn_in=1, outer=4)
    z = noise("z").normal(4, 2)
    x, _ = method.q(z, noise("xi").normal(4, 2))
    _, new = method.score_q(x.detach(), z, torch.tensor(1e-3), noise("chain"))
    # one transition, all accepted: grows once by 0.01 (1 - 0.9) / 0.9
    torch.testing.assert_close(new, torch.tensor(1e-3 * (1 + 0.01 / 9)), rtol=1e-5, atol=0)
    members = [UIVI(Gaussian(), **UIVI.cheap)]
    program = Program(members[0], 10)
    tape = Tape([0], program.draws_per_iteration, program.device, program.dtype)
    tape.load(0)
    state = program.iteration(program.initial_state(members), *tape.tensors())
    assert (state["buf/step_size"] != 0.2).all()


def test_sigma_stops_at_its_floor_and_can_come_back():
    method = UIVI(Gaussian(), **UIVI.cheap)
    with torch.no_grad():
        method.q.sd.copy_(torch.tensor([-1.0, 0.3]))
    torch.testing.assert_close(method.q.sigma, torch.tensor([SD_FLOOR, 0.3]))
    (gradient,) = torch.autograd.grad(method.q.sigma.sum(), method.q.sd)
    assert torch.equal(gradient, torch.ones(2))


def test_sigma_has_its_own_learning_rate():
    method = UIVI(Gaussian(), **UIVI.cheap, lr=0.02, lr_sd=0.001)
    (player,) = method.players()
    sizes = [p.numel() for p in method.q.parameters()]
    names = [n for n, _ in method.q.named_parameters()]
    rates = {n: player.optimiser.lr * f for n, (_, f) in zip(names, player.optimiser.factors, strict=True)}
    assert [size for size, _ in player.optimiser.factors] == sizes
    assert rates["sd"] == pytest.approx(0.001) and rates["mean.0.weight"] == pytest.approx(0.02)


def test_initial_weights_are_those_of_the_code():
    torch.manual_seed(0)
    layers = [m for m in UIVI(Gaussian(), noise_dim=300, hidden=(400, 500)).q.mean if isinstance(m, nn.Linear)]
    for layer, sd in zip(layers, (300**-0.5, 400**-0.5, 1.0), strict=True):
        assert float(layer.weight.std()) == pytest.approx(sd, rel=0.1) and not layer.bias.any()


def test_adaptation_aims_at_the_given_acceptance():
    method = UIVI(Gaussian(), burn_in=1, outer=4, accept=0.5)
    z = noise("z").normal(4, 3)
    x, _ = method.q(z, noise("xi").normal(4, 2))
    _, new = method.score_q(x.detach(), z, torch.tensor(1e-5), noise("chain"))
    torch.testing.assert_close(new, torch.tensor(1e-5 * 1.01), rtol=1e-5, atol=0)  # all accepted: (1 - a) / a = 1
