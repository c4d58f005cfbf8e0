"""SVGD's direction against autograd of the kernel, its fixed point, and the amortised form."""

from __future__ import annotations

import math

import pytest
import torch

from bench.fit.loop import fit
from bench.fit.members import initialise
from bench.noise import DirectNoise, generator
from methods.base import Clock
from methods.hksivi import HKSIVI
from methods.ksivi import KSIVI
from methods.parts.optim import Adam, Blocks, RMSprop
from methods.parts.repulsion import closed_form, particle_backend, stein_direction
from methods.svgd import SVGD, AmortisedSVGD
from toy_gaussian import COVARIANCE, MEAN, Gaussian


def points(n: int, d: int, *parts: object) -> torch.Tensor:
    return torch.randn(n, d, generator=generator("svgd", *parts), dtype=torch.float64)


def clock() -> Clock:
    return Clock(torch.zeros(()), 100)


@pytest.mark.parametrize("kernel, d", [("gaussian", 2), ("gaussian", 7), ("imq", 2)])
def test_direction_equals_autograd_of_the_kernel(kernel, d):
    x, y, score = points(6, d, "x"), 1.5 * points(9, d, "y") + 0.3, points(9, d, "s")
    median = torch.sort((x[:, None] - y[None]).square().sum(-1).flatten()).values[(6 * 9 - 1) // 2]

    def k(a, b):
        s = (a - b).square().sum() * math.log(7) / median
        return torch.exp(-s) if kernel == "gaussian" else (1 + s) ** -0.5

    gradient = torch.func.grad(k, argnums=0)  # in y_j, the first argument
    want = torch.stack([sum(k(b, a) * s + gradient(b, a) for b, s in zip(y, score, strict=True)) / 9 for a in x])
    torch.testing.assert_close(stein_direction(x, y, score, kernel=kernel), want)


@pytest.mark.skipif(particle_backend(torch.zeros(1)) != "fused", reason="no C++ compiler for the fused pass")
@pytest.mark.parametrize("bandwidth", ["detached", "bisection"])
@pytest.mark.parametrize("kernel", ["gaussian", "imq"])
@pytest.mark.parametrize("N, M, d", [(1, 1, 2), (60, 71, 2), (37, 53, 1), (37, 53, 7)])
def test_the_fused_pass_equals_the_formula(N, M, d, kernel, bandwidth):
    x, y, score = (torch.stack([points(n, d, n, s) for s in range(3)]) for n in (N, M, M + 1))
    score = score[:, :M]
    want = closed_form(x.float().double(), y.float().double(), score.float().double(), kernel, bandwidth)

    def direction(x, y, score):
        return stein_direction(x, y, score, kernel=kernel, bandwidth=bandwidth)

    found = torch.func.vmap(direction)(x.float(), y.float(), score.float())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), want, rtol=1e-5, atol=1e-5 * float(want.abs().max()))


def test_one_batch_of_draws_serves_all_seeds_and_other_precisions_are_refused():
    x, y, score = points(8, 2, "x").float().repeat(3, 1, 1), points(9, 2, "y").float(), points(9, 2, "s").float()
    torch.testing.assert_close(stein_direction(x, y, score)[2], stein_direction(x[2], y, score))
    with pytest.raises(ValueError, match="score has dtype torch.float64, x has torch.float32"):
        stein_direction(x, y, score.double())
    with pytest.raises(ValueError, match="do not match"):
        stein_direction(x, y, score[:-1])


def test_a_seed_that_diverged_stays_visible():
    x = points(8, 2, "x").float().repeat(2, 1, 1)
    x[1, 3, 0] = torch.inf
    phi = stein_direction(x, x, x)
    assert phi[0].isfinite().all() and phi[1].isnan().any()


def test_repulsion_pushes_away():
    """Without a score, a point moves away from its neighbour."""
    x, y = torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    phi = stein_direction(x, y, torch.zeros(1, 2))
    assert phi[0, 0] < 0 and phi[0, 1] == 0


def test_the_losses_gradient_is_minus_the_direction():
    method = SVGD(Gaussian(), particles=12)
    method.loss(DirectNoise(generator("svgd")), clock()).backward()
    x = method.particles.detach()
    torch.testing.assert_close(method.particles.grad, -stein_direction(x, x, method.target.score(x)))


def test_particles_reach_the_gaussian():
    run = fit(initialise(lambda: SVGD(Gaussian(), particles=60, decay=0.5, decay_every=150), [0]), [0], 600)
    x = run.state["theta/particles"][0].view(60, 2)
    torch.testing.assert_close(x.mean(0), MEAN, atol=0.05, rtol=0)
    # a finite ensemble is a little narrow
    torch.testing.assert_close(torch.cov(x.T), COVARIANCE, atol=0.2, rtol=0)


def test_amortised_gradient_is_the_direction_pulled_back():
    method = AmortisedSVGD(Gaussian(), batch=16, hidden=(8,))
    parameters = list(method.q.parameters())
    got = torch.autograd.grad(method.loss(DirectNoise(generator("svgd")), clock()), parameters)
    x, _ = method.q.draw(16, DirectNoise(generator("svgd")))
    y = x.detach()
    pulled = torch.autograd.grad(x, parameters, -stein_direction(y, y, method.target.score(y)) / 16)
    for a, b in zip(got, pulled, strict=True):
        torch.testing.assert_close(a, b)


def test_rmsprop_from_the_first_gradient_is_uivis_rule():
    rule, theta = RMSprop(0.1, 0.9, 1.0, from_first=True), torch.tensor([1.0, -2.0])
    gradients = [torch.tensor([0.5, 3.0]), torch.tensor([-1.0, 0.2]), torch.tensor([2.0, 0.0])]
    slots, expected = {"v": torch.zeros(2)}, theta.clone()
    G = None
    for count, g in enumerate(gradients, 1):
        direction, slots = rule.step(g, slots, torch.tensor(float(count)))
        theta = theta - rule.lr * direction
        G = g**2 if G is None else 0.1 * g**2 + 0.9 * G
        expected = expected - 0.1 * g / (1 + G.sqrt())
    torch.testing.assert_close(theta, expected)


def test_blocks_scale_runs_of_parameters_and_nothing_else():
    rule = Adam(0.1)
    both = Blocks(rule, ((2, 1.0), (3, 0.2)))
    g, slots = torch.randn(5, generator=generator("blocks")), {"m": torch.zeros(5), "v": torch.zeros(5)}
    plain, kept = rule.step(g, slots, torch.tensor(1.0))
    scaled, same = both.step(g, slots, torch.tensor(1.0))
    torch.testing.assert_close(scaled, plain * torch.tensor([1.0, 1.0, 0.2, 0.2, 0.2]))
    assert both.lr == rule.lr and all(torch.equal(kept[k], same[k]) for k in both.slots)


def test_every_particle_is_drawn():
    method = SVGD(Gaussian(), particles=5)

    class Given:
        def uniform(self, n):
            return torch.linspace(0.0, 0.99, n)

    assert torch.equal(method.sample(5, Given()), method.particles)


def test_one_layer_of_hksivi_moves_as_ksivi():
    for kernel, bandwidth in (("gaussian", "exact"), ("imq", "detached")):
        torch.manual_seed(0)
        chosen = {"kernel": kernel, "bandwidth": bandwidth}
        ksivi = KSIVI(Gaussian(), batch=30, noise_dim=2, hidden=(4,), **chosen)
        layered = HKSIVI(Gaussian(), layers=1, batch=30, hidden=(4,), residual=False, log_var_min=-20.0, **chosen)
        layered.layers[0].load_state_dict(ksivi.q.state_dict())
        noise, clock = (lambda: DirectNoise(generator("one"))), Clock(torch.zeros(()), 100)
        a = torch.autograd.grad(layered.objective(None, noise(), clock), list(layered.layers[0].parameters()))
        b = torch.autograd.grad(ksivi.loss(noise(), clock), list(ksivi.q.parameters()))
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
