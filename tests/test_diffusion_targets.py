"""Schedules, grids, noised marginals and teachers against closed forms and large samples."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from bench.errors import UserError
from bench.fit.counting import counted
from bench.noise import generator
from bench.registry import entries
from targets.base import Unsupported
from targets.diffusion.eps import FrozenTeacher, eps_from_x0, teacher_of
from targets.diffusion.grids import time_grid
from targets.diffusion.noised import Diffusable
from targets.diffusion.schedule import Schedule, linear_schedule, make_schedule
from targets.mixture import GaussianMixture
from toy_gaussian import Gaussian

SETS = ["checkerboard", "swissroll", "circles", "moons", "pinwheel", "8_gaussians"]
SCHEDULE = linear_schedule()
_built: dict[str, Diffusable] = {}


def build(name: str) -> Diffusable:
    if name not in _built:
        _built[name] = entries("target")[name].obj()
    return _built[name]


@pytest.fixture(params=SETS)
def target(request: pytest.FixtureRequest) -> Diffusable:
    return build(request.param)


def test_schedule_is_the_product_of_its_betas():
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    exact = torch.cumprod(1 - betas, 0)
    for t in (0, 1, 500, 999):
        assert SCHEDULE.alpha_bar(t) == pytest.approx(float(exact[t]), rel=1e-10)
        assert SCHEDULE.alpha(t) ** 2 + SCHEDULE.sigma(t) ** 2 == pytest.approx(1, abs=1e-14)
        assert SCHEDULE.half_log_snr(t) == pytest.approx(math.log(SCHEDULE.alpha(t) / SCHEDULE.sigma(t)), rel=1e-12)
    assert SCHEDULE.alpha_bar(800) == pytest.approx(0.00151, abs=1e-5)  # as HSIVI states it
    cosine = make_schedule("cosine")
    assert [round(cosine.alpha_bar(t), 4) for t in (830, 900, 930)] == [0.0678, 0.0236, 0.0115]


def test_schedule_of_tensors_equals_that_of_numbers_also_between_steps():
    times = [0.0, 0.25, 3.0, 511.5, 998.9, 999.0]
    for name in ("alpha_bar", "alpha", "sigma", "half_log_snr"):
        function = getattr(SCHEDULE, name)
        expected = torch.tensor([function(t) for t in times])
        # float32 times: relative 1e-7 of t moves sigma near t = 0 by less than this
        torch.testing.assert_close(function(torch.tensor(times)), expected, rtol=2e-5, atol=2e-5)
    assert SCHEDULE.sigma(torch.tensor([0, 800])).shape == (2,)
    assert SCHEDULE.log_alpha_bar(0.5) == pytest.approx((SCHEDULE.log_alpha_bar(0) + SCHEDULE.log_alpha_bar(1)) / 2)


def test_grids_of_the_papers():
    def grid(name, nfe, **more):
        return time_grid(name, nfe, SCHEDULE, **more)

    assert grid("quad", 5) == (0, 32, 128, 288, 512, 800)
    assert grid("quad", 15) == (0, 4, 14, 32, 57, 89, 128, 174, 228, 288, 356, 430, 512, 601, 697, 800)
    assert [grid("uniform", n)[-1] for n in (5, 10, 15)] == [830, 900, 930]
    assert grid("trailing", 5) == (0, 199, 399, 599, 799, 999)
    assert grid("leading", 5) == (0, 1, 201, 401, 601, 801)
    assert grid("power", 10, power=2.0) == grid("quad", 10)
    lambdas = [SCHEDULE.half_log_snr(t) for t in grid("logsnr", 4)]
    steps = [a - b for a, b in zip(lambdas[1:-1], lambdas[2:], strict=True)]  # the lowest ones are rounded most
    assert max(steps) / min(steps) < 1.05
    assert grid("explicit", 2, times=(800, 0, 14)) == (0, 14, 800)
    for name in ("quad", "uniform", "cosine", "trailing", "leading", "logsnr", "power"):
        for nfe in (1, 2, 50):
            found = grid(name, nfe)
            assert len(found) == nfe + 1 and list(found) == sorted(set(found)) and found[0] == 0 and found[-1] <= 999


@pytest.mark.parametrize("arguments", [
    ("nope", 5, {}), ("quad", 0, {}), ("quad", 1000, {}), ("power", 5, {"power": -1.0}), ("quad", 2, {"times": (1, 2)}),
    ("explicit", 2, {"times": (0, 5)}), ("explicit", 2, {"times": (0, 5, 5)}), ("explicit", 2, {"times": (0, 5, 1000)}),
])  # fmt: skip
def test_bad_grids_are_refused(arguments):
    name, nfe, more = arguments
    with pytest.raises(UserError):
        time_grid(name, nfe, SCHEDULE, **more)


def test_bad_schedules_and_targets_are_refused():
    for betas in ([0.1], [0.1, 1.0], [0.0, 0.1]):
        with pytest.raises(UserError):
            Schedule(betas)
    with pytest.raises(UserError):
        make_schedule("nope")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no diffusion teacher"):
        teacher_of(entries("target")["banana"].obj())
    with pytest.raises(Unsupported):
        entries("target")["banana"].obj().noised(10)


def test_posterior_mean_of_the_noise_of_a_large_sample(target):
    """eps* against E[eps | x_t] by importance weights over 40,000 clean draws, where these resolve the noise."""
    clean = target.sample(40_000, generator("clean")).double()
    double = copy.deepcopy(target).double()
    for t in (100, 400, 800):
        alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
        x = target.noised(t).sample(20, generator("x", t)).double()
        eps = (x[:, None] - alpha * clean) / sigma
        weights = torch.softmax(-0.5 * eps.square().sum(-1), dim=1)
        mean = (weights[..., None] * eps).sum(1)
        spread = (weights.square()[..., None] * (eps - mean[:, None]).square()).sum(1).sqrt()  # of the weighted mean
        error = (double.noised_eps(x, alpha, sigma) - mean).abs()
        assert (error <= 5 * spread + 1e-6).all() and float(spread.median()) < 0.02


def test_closed_form_is_the_gradient_of_the_noised_density(target):
    double = copy.deepcopy(target).double()
    for t in (0, 20, 300, 800):
        alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
        x = torch.cat(
            [target.noised(t).sample(100, generator(t)), 3 * torch.randn(20, 2, generator=generator(9))]
        ).double()
        gradient = torch.func.grad(lambda y, a=alpha, s=sigma: double.noised_log_prob(y, a, s).sum())(x)
        eps = double.noised_eps(x, alpha, sigma)
        torch.testing.assert_close(eps, -sigma * gradient, rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(double.noised_score(x, alpha, sigma), gradient, rtol=1e-7, atol=1e-7 / sigma)


def test_noised_density_integrates_to_one(target):
    """By the midpoint rule on a box that holds all of it."""
    double = copy.deepcopy(target).double()
    edge = 9.0
    axis = edge * (2 * (torch.arange(90, dtype=torch.float64) + 0.5) / 90 - 1)  # cells of .2, noise of at least .5
    x = torch.cartesian_prod(axis, axis)
    for t in (150, 600):
        mass = double.noised_log_prob(x, SCHEDULE.alpha(t), SCHEDULE.sigma(t)).exp().sum() * (2 * edge / 90) ** 2
        assert float(mass) == pytest.approx(1, abs=1e-6)


def test_float32_follows_float64_near_and_far(target):
    double = copy.deepcopy(target).double()
    for t in (0, 30, 800):
        alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
        near = target.noised(t).sample(200, generator(t))
        x = torch.cat([near, 1000 * torch.randn(20, 2, generator=generator("far"))])
        single, exact = target.noised_eps(x, alpha, sigma), double.noised_eps(x.double(), alpha, sigma)
        assert torch.isfinite(single).all()
        relative = (single - exact).norm(dim=1) / (1 + exact.norm(dim=1))
        assert float(relative.max()) < 5e-4


def test_levels_per_row_under_vmap_and_tracing(target):
    teacher = teacher_of(target)
    x = torch.randn(2, 3, 2, generator=generator("x"))
    t = torch.tensor([[0.0, 10.0, 20.5], [300.0, 800.0, 999.0]])

    def loss(x, t):
        return teacher.eps(x, t).square().sum()

    function = torch.func.vmap(torch.func.grad(loss))
    traced = make_fx(function)(x, t)
    torch.testing.assert_close(traced(x, t), function(x, t))
    rows = [teacher.eps(x[i, j], float(t[i, j])) for i in range(2) for j in range(3)]
    torch.testing.assert_close(teacher.eps(x, t).view(6, 2), torch.stack(rows), rtol=1e-3, atol=1e-3)
    assert torch.isfinite(function(x, t)).all()


def test_gaussian_mixture_noised_is_the_mixture_of_wider_gaussians():
    covariance = torch.tensor([[1.0, 0.7], [0.7, 2.0]], dtype=torch.float64)
    means, weights = [[1.0, -1.0], [0.0, 3.0]], [0.3, 0.7]
    target = GaussianMixture(means, [covariance.tolist()] * 2, weights).double()
    alpha, sigma = SCHEDULE.alpha(200), SCHEDULE.sigma(200)
    wider = (alpha**2 * covariance + sigma**2 * torch.eye(2, dtype=torch.float64)).tolist()
    expected = GaussianMixture([[alpha * v for v in m] for m in means], [wider] * 2, weights).double()
    x = torch.randn(20, 2, dtype=torch.float64, generator=generator("x"))
    noised = target.noised(200)
    # parameters are rounded to float32 when a mixture is made
    torch.testing.assert_close(noised.log_prob(x), expected.log_prob(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(noised.score(x), expected.score(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(target.noised_score(x, 1.0, 0.0), target.score(x), rtol=1e-5, atol=1e-5)
    twice, at_once = noised.noised_score(x, 0.5, 0.2), target.noised_score(x, 0.5 * alpha, math.hypot(0.5 * sigma, 0.2))
    torch.testing.assert_close(twice, at_once)


def test_conversions_of_the_teacher():
    teacher, t = teacher_of(Gaussian()), 250
    alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
    x = torch.randn(10, 2, generator=generator("x"))
    eps, x0 = teacher.eps(x, t), teacher.x0(x, t)
    torch.testing.assert_close(alpha * x0 + sigma * eps, x)
    torch.testing.assert_close(eps_from_x0(x, x0, alpha, sigma), eps)


def test_a_network_as_teacher_is_frozen_but_differentiable_in_x():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3, 2)

        def forward(self, x, t):
            return self.layer(torch.cat([x, t.unsqueeze(-1) / 1000], -1))

    teacher = FrozenTeacher(Net(), SCHEDULE, 2)
    x = torch.randn(4, 2, requires_grad=True)
    teacher.eps(x, 100).sum().backward()
    assert x.grad is not None and not any(p.requires_grad for p in teacher.parameters())
    torch.testing.assert_close(teacher.eps(x, torch.full((4,), 100)), teacher.eps(x, 100))


def test_evaluations_of_noised_scores_are_counted():
    target = build("moons")
    teacher = teacher_of(target)
    with counted(target) as count:
        teacher.eps(torch.zeros(3, 5, 2), 10)
    assert count.rows == 15


@pytest.mark.parametrize("name", ["swissroll", "circles", "moons", "pinwheel"])
def test_nodes_of_a_curve_are_closer_than_its_blur(name):
    target = build(name)
    places, weights = target.nodes()
    away = (places[:, None] - places[None]).norm(dim=-1)
    away.fill_diagonal_(math.inf)
    nearest_two = away.sort(dim=1).values[:, 1]  # the larger gap of a node within its curve; its only one at an end
    inner = weights > 1e-3 * weights.max()
    assert float(nearest_two[inner].max()) < target.sd


@pytest.mark.parametrize("name", ["checkerboard", "swissroll", "circles", "moons", "pinwheel"])
def test_sets_are_at_unit_scale_and_draws_follow_the_density(name):
    target = build(name)
    x = target.sample(40_000, generator("scale")).double()
    assert float(x.mean(0).abs().max()) < 5 * 1.3 / math.sqrt(40_000)
    assert float(x.var(0).mean()) == pytest.approx(1, abs=0.03)
    if name == "checkerboard":
        cell = ((x / target.half_width + 1) * 2).floor()
        assert (cell.sum(1) % 2 == 0).all() and x.abs().max() <= target.half_width
        return
    assert target.window is not None
    axes = [low + (high - low) * (torch.arange(300, dtype=torch.float64) + 0.5) / 120 for low, high in target.window]
    grid = torch.cartesian_prod(*axes)
    area = math.prod((high - low) / 120 for low, high in target.window)
    mass = copy.deepcopy(target).double().log_prob(grid).exp() * area
    assert float(mass.sum()) == pytest.approx(1, abs=1e-4)
    expected = (mass[:, None] * torch.cos(3 * grid)).sum(0)
    found = torch.cos(3 * x)
    assert ((found.mean(0) - expected).abs() < 5 * found.std(0) / math.sqrt(40_000)).all()
