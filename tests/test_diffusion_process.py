"""Conditioned diffusion: published data and posterior moments, both drifts, and the metric of its tables."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bench.errors import UserError
from bench.metrics import log_ml_kde as module
from bench.metrics.base import Fitted
from bench.metrics.log_ml_kde import LogMLKDE, log_ml_kde
from bench.noise import generator
from bench.registry import entries
from methods.base import Method, Noise
from targets.base import Unsupported
from targets.diffusion_process import BETA, ConditionedDiffusion, observations
from targets.stored_draws import load_info

NAMES = ["cond_diffusion_d50", "cond_diffusion_d100", "cond_diffusion_d200"]

# y at steps 5, 10, ..., 100 as published (file lagevin.npy in the code of AISIVI), three decimals
PUBLISHED = [-0.492, -0.910, -1.071, -0.935, -0.989, -0.745, -1.112, -1.239, -1.290, -1.504,
             -0.920, -1.127, -1.404, -1.108, -0.701, -0.649, -1.005, -0.846, -0.618, -0.768]  # fmt: skip
# posterior means there under the code's drift: independent HMC, 20,000 draws, three decimals
HMC_MEAN = [-0.475, -0.872, -1.030, -0.955, -0.966, -0.825, -1.085, -1.215, -1.282, -1.395,
            -1.008, -1.131, -1.317, -1.085, -0.761, -0.712, -0.950, -0.843, -0.678, -0.772]  # fmt: skip


def build(name: str, **arguments: str) -> ConditionedDiffusion:
    return entries("target")[name].obj(**arguments)


def test_data_are_the_published_ones() -> None:
    torch.testing.assert_close(observations(100), torch.tensor(PUBLISHED, dtype=torch.float64), rtol=0, atol=6e-4)


def test_data_do_not_depend_on_the_default_dtype() -> None:
    expected = observations(100)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(observations(100), expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_data_leave_the_global_stream_alone() -> None:
    """The official class reseeds torch, which makes runs of different seeds identical."""
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    build("cond_diffusion_d50")
    assert torch.equal(torch.randn(3), expected)


@pytest.mark.parametrize("drift", ["code", "paper"])
def test_log_density_is_the_sum_over_steps(drift: str) -> None:
    target = build("cond_diffusion_d50", drift=drift).double()
    x = torch.randn(50, generator=generator("path"), dtype=torch.float64)
    dt, total, u = 1 / 50, 0.0, 0.0
    for i, v in enumerate(x.tolist(), start=1):
        f = BETA * u * (1 - u**2) / (1 if drift == "paper" else 1 + u**2)
        total -= (v - u - f * dt) ** 2 / (2 * dt)
        if i % 5 == 0:
            total -= (float(target.y[i // 5 - 1]) - v) ** 2 / (2 * 0.1**2)
        u = v
    assert math.isclose(float(target.log_prob(x)), total, rel_tol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_score_of_the_papers_drift_is_its_gradient(name: str) -> None:
    """The contract tests see the default drift only."""
    target = build(name, drift="paper").double()
    x = torch.randn(4, target.dim, generator=generator("path"), dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(target.log_prob(x).sum(), x)
    torch.testing.assert_close(target.score(x), gradient, rtol=1e-10, atol=1e-8)


def test_unknown_drift_is_refused_and_the_papers_has_no_reference() -> None:
    with pytest.raises(UserError, match="code or paper"):
        build("cond_diffusion_d50", drift="both")
    with pytest.raises(Unsupported):
        build("cond_diffusion_d50", drift="paper").reference()


def test_reference_has_the_published_moments() -> None:
    """Published: means to three decimals with an error of .086 / sqrt(effective draws), mean sd .1158, -62.3 nats."""
    info = load_info("cond_diffusion_d100")
    mean, sd = torch.tensor(info["mean"]), torch.tensor(info["sd"])
    assert float((mean[4::5] - torch.tensor(HMC_MEAN)).abs().max()) < 0.006
    assert abs(float(sd.mean()) - 0.1158) < 0.0005 and abs(float(sd[4::5].mean()) - 0.086) < 0.003
    target = build("cond_diffusion_d100")
    draws: Tensor = target.reference()
    value = target.log_prob(draws)
    assert abs(float(value.mean()) - -62.3) < 4 * float(value.std()) / math.sqrt(len(value)) + 0.05


@pytest.mark.parametrize("name", NAMES)
def test_reference_stays_in_one_well(name: str) -> None:
    """Where the observations lie all on one side, no draw of the path's end is in the other well."""
    target = build(name)
    draws = target.reference()
    assert (target.y.sign() == target.y[0].sign()).all()
    assert (draws[:, 4::5].sign() == target.y[0].sign()).float().mean() > 0.995


def test_log_ml_kde_is_the_naive_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    reference, draws = (torch.randn(n, 2, generator=generator(n), dtype=torch.float64) for n in (7, 300))
    reference[6] = 40.0  # where no draw is near
    monkeypatch.setattr(module, "POINTS", 3)  # several windows, the last one of one point
    for sd in (0.3, 0.02):  # windows that hold most of the draws, and a few
        log_p = torch.distributions.Normal(draws, sd).log_prob(reference[:, None])
        total = float((torch.logsumexp(log_p, 1) - math.log(300)).sum())
        assert math.isclose(log_ml_kde(reference, draws, sd), total, rel_tol=1e-12)
    draws[0] = math.nan
    assert math.isnan(log_ml_kde(reference, draws, 0.3))


def test_log_ml_kde_has_one_reference_set_for_all_seeds() -> None:
    target = build("cond_diffusion_d100")

    class Same(Method):
        def sample(self, n: int, noise: Noise) -> Tensor:
            return target.reference()[:n]

    metric = LogMLKDE(n=300, reference=20, sd=0.05)
    first, other = (metric(Fitted(Same(target), target, seed)).value for seed in (0, 1))
    assert first == other and math.isfinite(first)


def test_log_ml_kde_sees_no_dependence_and_far_points() -> None:
    draws = torch.randn(200, 2, generator=generator("kde"), dtype=torch.float64)
    shuffled = torch.stack((draws[:, 0], draws[torch.randperm(200, generator=generator("order")), 1]), dim=1)
    reference = torch.randn(9, 2, generator=generator("r"), dtype=torch.float64)
    assert math.isclose(log_ml_kde(reference, draws, 0.1), log_ml_kde(reference, shuffled, 0.1), rel_tol=1e-12)
    assert math.isfinite(log_ml_kde(reference + 1e3, draws, 0.01))
