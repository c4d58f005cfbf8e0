"""DDS: the path-space loss where it is known, and the bound on log Z."""

from __future__ import annotations

import math

import pytest
import torch

from bench.errors import UserError
from bench.fit.loop import fit
from bench.noise import DirectNoise, generator
from methods.dds import DDS
from targets.base import Target
from toy_gaussian import COVARIANCE, Gaussian


def noise(*parts: object) -> DirectNoise:
    return DirectNoise(generator("dds", *parts))


class Stationary(Target):
    """5 N(x; 0, 1.5^2 I), so log Z = log 5."""

    dim = 2

    def log_prob(self, x):
        return torch.distributions.Normal(0.0, 1.5).log_prob(x).sum(-1) + math.log(5.0)


def make(target: Target, **options) -> DDS:
    torch.manual_seed(0)
    return DDS(target, **{"steps": 5, "hidden": (8,), "sigma": 1.5, "alpha_max": 0.5, **options})


def test_without_control_every_path_knows_log_z_of_the_stationary_law():
    method = make(Stationary())
    with torch.no_grad():
        values = method.path_divergence(50, noise("paths"), method.target)
    torch.testing.assert_close(values, torch.full((50,), -math.log(5.0)), rtol=1e-4, atol=1e-4)


def test_without_control_draws_are_stationary_and_the_loss_is_the_gaussian_divergence():
    method = make(Gaussian())
    with torch.no_grad():
        x = method.sample(40_000, noise("draws"))
        loss = float(method.path_divergence(40_000, noise("draws"), method.target).mean())
    torch.testing.assert_close(torch.cov(x.T), 1.5**2 * torch.eye(2), rtol=0, atol=0.07)
    precision = torch.linalg.inv(COVARIANCE)
    energy = -0.5 * float(torch.trace(precision) * 1.5**2 + torch.ones(2) @ precision @ torch.ones(2))
    entropy = 1 + math.log(2 * math.pi * 1.5**2)
    assert loss == pytest.approx(-energy - entropy, abs=0.1)  # energies have a standard deviation of about 5


def test_cost_of_a_constant_control_is_that_of_its_girsanov_shift():
    """With f = c, y_0 keeps its covariance, its mean is the shifts run down the chain, and the cost is known."""
    method = make(Stationary())
    c = torch.tensor([0.4, -0.2])
    with torch.no_grad():
        method.f.state[-1].bias.copy_(c)
        y, cost = method.paths(20_000, noise("shift"), method.target)
    mean, expected = torch.zeros(2), 0.0
    for alpha in reversed(method.alphas):
        shift = 2 * 1.5**2 * (1 - math.sqrt(1 - alpha)) * c
        mean = math.sqrt(1 - alpha) * mean + shift
        expected += float(shift @ shift) / (2 * 1.5**2 * alpha)
    torch.testing.assert_close(y.mean(0), mean, rtol=0, atol=0.05)
    torch.testing.assert_close(cost, torch.full((20_000,), expected), rtol=1e-4, atol=1e-6)


def test_training_tightens_the_bound_on_log_z():
    method = make(Gaussian(), batch=100, lr=1e-2)
    before = float(method.path_divergence(4000, noise("z"), method.target).mean().detach())
    fitted = fit([method], [0], 250).member(0, method)
    after = float(fitted.path_divergence(4000, noise("z"), method.target).mean().detach())
    # below -log Z by no more than the Monte Carlo error of 4000 paths
    assert -Gaussian.log_z - 0.1 < after < before - 0.5 * (before + Gaussian.log_z)


def test_steps_are_small_near_the_target():
    method = make(Stationary(), steps=20, alpha_max=0.9)
    assert all(a < b for a, b in zip(method.alphas, method.alphas[1:], strict=False))
    assert method.alphas[-1] == pytest.approx(0.9, rel=1e-3)


@pytest.mark.parametrize("alpha_max", [0.0, 1.0, 2.0])
def test_alpha_must_be_between_zero_and_one(alpha_max):
    with pytest.raises(UserError, match=rf"method\.alpha_max={alpha_max} must be above 0 and below 1"):
        make(Stationary(), alpha_max=alpha_max)


def test_steps_are_those_of_the_cosine_schedule():
    method = DDS(Gaussian(), steps=20, alpha_max=0.9, hidden=(4,))
    expected = [math.sqrt(0.9) * math.cos(0.5 * math.pi * (1 - k / 20 + 0.008) / 1.008) ** 2 for k in range(1, 21)]
    assert [math.sqrt(alpha) for alpha in method.alphas] == pytest.approx(expected)


def test_paths_go_down_the_schedule_from_its_largest_step():
    """y_K ~ N(0, sigma^2 I), then the published step with alpha_K first, under a constant control."""
    method, again, seen = make(Stationary(), steps=3, alpha_max=0.9), noise("down"), []
    c = torch.tensor([0.4, -0.2])
    with torch.no_grad():
        method.f.state[-1].bias.copy_(c)
    method.f.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[:2]))
    end, _ = method.paths(10, noise("down"), method.target)
    y = 1.5 * again.normal(10, 2)
    for i, k in enumerate((3, 2, 1)):
        assert seen[i][0] == k
        torch.testing.assert_close(seen[i][1], y)
        alpha = 0.9 * math.cos(0.5 * math.pi * (1 - k / 3 + 0.008) / 1.008) ** 4
        keep = math.sqrt(1 - alpha)
        y = keep * y + 2 * 1.5**2 * (1 - keep) * c + 1.5 * math.sqrt(alpha) * again.normal(10, 2)
    torch.testing.assert_close(end, y)


def test_the_score_given_to_the_drift_is_clipped():
    class Steep(Gaussian):
        def score(self, x):
            return torch.full_like(x, 1e6)

    seen, method = [], DDS(Steep(), steps=2, hidden=(4,), score_clip=50.0)
    method.f.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[2]))
    method.paths(3, noise("clip"), method.target)
    assert all((score == 50.0).all() for score in seen) and len(seen) == 2
