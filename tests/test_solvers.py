"""Solver baselines: exact transport of Gaussians, textbook formulas, counted evaluations; metrics nfe and js_sets."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from bench.config import compose
from bench.errors import UserError
from bench.fit.group import fit_group
from bench.metrics.base import Fitted
from bench.metrics.js_sets import JSSets, quantile_box
from bench.metrics.nfe import NFE, counted_rows
from bench.noise import DirectNoise, generator
from bench.registry import entries
from bench.store import Store
from methods.base import Method
from methods.diffusion.solver import Solver
from methods.solvers import DDIM, DEIS, PNDM, Ancestral, DPMSolverPP, Heun, UniPC
from targets.diffusion.schedule import linear_schedule
from toy_gaussian import COVARIANCE, MEAN, Drawless, Gaussian

pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers.*")
SCHEDULE = linear_schedule()
SOLVERS = [DDIM, Ancestral, DPMSolverPP, UniPC, DEIS, PNDM, Heun]
DETERMINISTIC = [
    (DDIM, {}),
    (DPMSolverPP, {"order": 2}),
    (DPMSolverPP, {"order": 3}),
    (UniPC, {"order": 2}),
    (UniPC, {"order": 3}),
    (DEIS, {"order": 2}),
    (DEIS, {"order": 3}),
    (PNDM, {}),
    (Heun, {}),
]


class Fixed:
    """Noise whose first normals are given."""

    def __init__(self, *values: torch.Tensor) -> None:
        self.values = list(values)

    def normal(self, *shape: int) -> torch.Tensor:
        return self.values.pop(0)


def transport(x: torch.Tensor, top: int, bottom: int) -> torch.Tensor:
    """Where the probability-flow ODE of Gaussian data leads x from ``top`` to ``bottom``: whitened x stays the same."""
    variances, axes = torch.linalg.eigh(COVARIANCE)
    sds = [(SCHEDULE.alpha_bar(t) * variances + SCHEDULE.sigma(t) ** 2).sqrt() for t in (top, bottom)]
    white = (x - SCHEDULE.alpha(top) * MEAN) @ axes / sds[0]
    return (white * sds[1]) @ axes.T + SCHEDULE.alpha(bottom) * MEAN


def error(solver: Solver, x: torch.Tensor) -> float:
    found = solver.sample(len(x), Fixed(x))
    return float((found - transport(x, solver.grid[-1], solver.grid[0])).square().mean().sqrt())


@pytest.mark.parametrize("cls, more", DETERMINISTIC)
def test_exact_transport_of_gaussian_data_as_nfe_grows(cls, more):
    x = torch.randn(100, 2, generator=generator("x"))
    errors = [error(cls(Gaussian(), nfe=nfe, grid="quad", **more), x) for nfe in (8, 16, 32, 64)]
    # first order halves with every doubling; a solver of higher order gains at least that much
    assert all(after < 0.65 * before for before, after in pairwise(errors)), errors
    assert errors[-1] < (0.03 if cls is DDIM else 0.01)


@pytest.mark.parametrize("grid", ["uniform", "cosine", "trailing", "logsnr", "power"])
def test_all_grids_lead_to_the_same_place(grid):
    x = torch.randn(50, 2, generator=generator("x"))
    assert error(DPMSolverPP(Gaussian(), nfe=60, grid=grid), x) < 0.02


def test_ddim_is_its_formula_with_any_eta():
    """Pathwise, on the same noise, on a grid that diffusers has not built in, landing above t = 0."""
    times, eta = (14, 50, 130, 300, 800), 0.4
    x, *rest = torch.randn(5, 30, 2, generator=generator("x"))
    solver = DDIM(Gaussian(), nfe=4, grid="explicit", times=times, eta=eta)
    found = solver.sample(30, Fixed(x.clone(), *[z.clone() for z in rest]))
    for k in range(4, 0, -1):
        at, to = times[k], times[k - 1]
        eps = solver.teacher.eps(x, at)
        x0 = (x - SCHEDULE.sigma(at) * eps) / SCHEDULE.alpha(at)
        ratio = SCHEDULE.alpha_bar(at) / SCHEDULE.alpha_bar(to)
        sd = eta * SCHEDULE.sigma(to) / SCHEDULE.sigma(at) * math.sqrt(1 - ratio)
        x = SCHEDULE.alpha(to) * x0 + math.sqrt(SCHEDULE.sigma(to) ** 2 - sd**2) * eps
        x = x + sd * rest.pop(0) if k > 1 else x
    torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-4)


def test_ddpm_is_ddim_with_all_noise_and_reaches_the_gaussian():
    noise = [DirectNoise(generator("ddpm")) for _ in range(2)]
    both = [
        Ancestral(Gaussian(), nfe=100).sample(20_000, noise[0]),
        DDIM(Gaussian(), nfe=100, eta=1.0).sample(20_000, noise[1]),
    ]
    torch.testing.assert_close(both[0], both[1])
    torch.testing.assert_close(both[0].mean(0), MEAN, atol=0.05, rtol=0)
    torch.testing.assert_close(torch.cov(both[0].T), COVARIANCE, atol=0.07, rtol=0)


def test_dpm_solver_pp_is_the_published_second_order_multistep_formula():
    times = (0, 14, 50, 130, 300, 800)
    x = torch.randn(30, 2, generator=generator("x"))
    solver = DPMSolverPP(Gaussian(), nfe=5, grid="explicit", times=times)
    found = solver.sample(30, Fixed(x.clone()))
    before, h_before = None, 0.0
    for k in range(5, 0, -1):
        at, to = times[k], times[k - 1]
        x0 = solver.teacher.x0(x, at)
        h = SCHEDULE.half_log_snr(to) - SCHEDULE.half_log_snr(at)
        if before is None or k == 1:  # first order to start and in the last of few steps
            mix = x0
        else:
            mix = x0 + (x0 - before) * h / (2 * h_before)
        x = SCHEDULE.sigma(to) / SCHEDULE.sigma(at) * x - SCHEDULE.alpha(to) * math.expm1(-h) * mix
        before, h_before = x0, h
    torch.testing.assert_close(found, x, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("cls", SOLVERS)
def test_every_solver_makes_exactly_nfe_evaluations(cls):
    for nfe in (2, 3, 5, 10):
        solver = cls(Gaussian(), nfe=nfe)
        with counted_rows(solver.networks()) as found:
            x = solver.sample(7, DirectNoise(generator(0)))
        assert found.rows == 7 * nfe and x.shape == (7, 2) and torch.isfinite(x).all()
        assert NFE()(Fitted(solver, solver.target, 0)).value == nfe


def test_clipping_bounds_what_every_solver_sees_of_x0():
    solver = UniPC(Gaussian(), nfe=5, clip=0.5)
    x = 3 * torch.randn(50, 2, generator=generator("x"))
    for t in (800, 128, 0):
        alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
        x0 = (x - sigma * solver.eps(x, t)) / alpha
        expected = solver.teacher.x0(x, t).clamp(-0.5, 0.5)
        torch.testing.assert_close(x0, expected, rtol=1e-3, atol=2e-3)  # eps - x cancels at high noise
    free = UniPC(Gaussian(), nfe=5, clip=1e3).sample(20, DirectNoise(generator(1)))
    torch.testing.assert_close(
        free, UniPC(Gaussian(), nfe=5).sample(20, DirectNoise(generator(1))), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("cls, arguments", [
    (PNDM, {"nfe": 1}), (DDIM, {"nfe": 0}), (DDIM, {"eta": 1.5}), (DEIS, {"order": 4}), (Heun, {"clip": 0.0}),
])  # fmt: skip
def test_bad_settings_are_refused(cls, arguments):
    with pytest.raises(UserError):
        cls(Gaussian(), **arguments)


def test_without_diffusers_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="diffusers") as raised:
        DDIM(Gaussian())
    assert "sivibench[diffusion]" in str(raised.value)


def test_a_run_of_a_solver_fits_nothing_and_records_what_it_cost(tmp_path):
    arguments = [
        "method=solver_heun",
        "target=moons",
        "method.nfe=3",
        "eval.metrics=[nfe]",
        "eval.samples=0",
        f"paths.results={tmp_path}",
    ]
    config = compose([*arguments, "train.iterations=500"])
    assert config.config_id == compose(arguments).config_id and config.train["iterations"] == 1
    _, record = fit_group(config, [0, 1], Store(tmp_path))
    assert record["status"] == "done" and record["metrics"]["nfe"]["value"] == 3
    assert record["cost"]["draw_seconds_per_1000"] > 0 and record["samples"] is None  # none asked for
    assert "HeunDiscreteScheduler of diffusers" in record["env"]["operations"]["scheduler"]


class Truth(Method):
    """Draws of the target, moved."""

    def __init__(self, target, shift: float = 0.0) -> None:
        super().__init__(target)
        self.shift = shift

    def sample(self, n, noise):
        return self.target.sample(n, noise.generator) + self.shift


def test_js_sets_of_the_truth_is_its_floor_and_grows_with_a_shift():
    target = entries("target")["circles"].obj()
    metric = JSSets(n=20_000, bins=32)
    same, moved, far = (metric(Fitted(Truth(target, shift), target, 0)) for shift in (0.0, 0.3, 100.0))
    assert same.floor == moved.floor and same.floor is not None
    # with many counts per cell the floor is about (cells with mass) / (4 n), here 700 of 1024
    assert same.floor == pytest.approx(700 / 80_000, rel=0.3)
    assert same.value == pytest.approx(same.floor, rel=0.1)
    assert moved.value > 0.1 and far.value == pytest.approx(math.log(2), abs=1e-3)
    assert math.isnan(metric(Fitted(Truth(target, math.nan), target, 0)).value)


def test_the_box_is_the_quantile_range_widened():
    x = torch.stack((torch.arange(10_001) / 100, -torch.arange(10_001) / 1000), dim=1)
    (low1, high1), (low2, high2) = quantile_box(x, 0.01, 0.05)
    assert (low1, high1) == pytest.approx((1 - 4.9, 99 + 4.9)) and (low2, high2) == pytest.approx((-10.39, 0.39))


def test_where_the_metrics_do_not_apply():
    drawless, moons = Drawless(), entries("target")["moons"].obj()
    assert "no network" in str(NFE().applies(Truth(moons), moons).replace("evaluates no network", "no network"))
    assert JSSets().applies(Truth(moons), moons) is None
    assert JSSets().applies(Truth(drawless), drawless) is not None
