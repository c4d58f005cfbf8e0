"""Metrics of samples against a closed form, a loop or another library."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist
from scipy.stats import norm, wasserstein_distance

from bench.metrics import ksd, mmd, moments, sliced
from bench.metrics.evaluate import evaluate
from metric_fakes import Explicit, GaussianTarget, PosteriorTarget, SemiImplicit, StoredTarget, fitted
from targets.base import Target


def normal(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("dim", [2, 5])
def test_sliced_distances_of_a_shift(dim: int) -> None:
    x, shift = normal(100, dim), torch.arange(1.0, dim + 1).double()
    along = sliced.directions(dim, 20_000, 0)
    assert sliced.sliced_wasserstein(x, x + shift, along, 2) ** 2 == pytest.approx(float(shift @ shift) / dim, rel=0.03)
    mean_abs = math.gamma(dim / 2) / (math.sqrt(math.pi) * math.gamma((dim + 1) / 2))  # E |theta_1| on the sphere
    assert sliced.sliced_wasserstein(x, x + shift, along, 1) == pytest.approx(float(shift.norm()) * mean_abs, rel=0.03)


def test_sliced_distances_against_scipy_and_invariances() -> None:
    x, y, along = normal(200, 3), normal(200, 3, seed=1).exp(), sliced.directions(3, 40, 0)
    expected = np.mean([wasserstein_distance((x @ a).numpy(), (y @ a).numpy()) for a in along])
    assert sliced.sliced_wasserstein(x, y, along, 1) == pytest.approx(expected)
    value = sliced.sliced_wasserstein(x, y, along, 2)
    rotation = torch.linalg.qr(normal(3, 3, seed=2)).Q
    permutation = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    for u, v, w in ((y, x, along), (x[permutation], y, along), (x + 5, y + 5, along)):
        assert sliced.sliced_wasserstein(u, v, w, 2) == pytest.approx(value)
    assert sliced.sliced_wasserstein(x @ rotation, y @ rotation, along @ rotation, 2) == pytest.approx(value)
    assert value > expected


def test_the_sliced_metric_of_a_shifted_gaussian() -> None:
    q = fitted(mean=(3.0, 0.0))
    along = sliced.directions(2, 300, 0)[:, 0].abs()  # 300 directions leave 3 % of error in the mean over the circle
    assert sliced.SlicedW2(repeats=2)(q).value == pytest.approx(3 * float(along.square().mean().sqrt()), rel=0.02)
    assert sliced.SlicedW1(repeats=2)(q).value == pytest.approx(3 * float(along.mean()), rel=0.02)
    assert float(along.mean()) == pytest.approx(2 / math.pi, rel=0.1)


def test_the_two_truth_sets_of_a_floor_are_disjoint(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.arange(2001.0)[:, None].repeat(1, 2)
    pairs = []
    monkeypatch.setattr(sliced, "sliced_wasserstein", lambda x, y, *_: pairs.append((x, y)) or 0.0)
    sliced.SlicedW2(repeats=3)(fitted(Explicit, StoredTarget(rows)))
    floors = pairs[1::2]
    assert len(pairs) == 6 and all(len(torch.cat([x, y]).unique()) == 2000 for x, y in floors)
    assert not torch.equal(floors[0][1], floors[1][1]) and torch.equal(pairs[0][1], floors[0][1])


# ---- MMD


def test_mmd_is_the_double_loop() -> None:
    x, y, h = normal(6, 3), normal(5, 3, seed=1) + 1, 1.3
    k = lambda a, b: math.exp(-float((a - b).square().sum()) / (2 * h * h))  # noqa: E731
    within = sum(k(x[i], x[j]) for i in range(6) for j in range(6) if i != j) / 30
    within += sum(k(y[i], y[j]) for i in range(5) for j in range(5) if i != j) / 20
    across = sum(k(a, b) for a in x for b in y) / 30
    assert mmd.mmd2_unbiased(x, y, h) == pytest.approx(within - 2 * across)
    assert mmd.median_distance(normal(101, 3)) == pytest.approx(float(np.median(pdist(normal(101, 3)))), rel=1e-3)


def test_mmd_between_gaussians() -> None:
    h, shift = 1.7, torch.tensor([1.0, -0.5]).double()
    overlap = h**2 / (h**2 + 2)  # to the power d / 2 = 1
    expected = 2 * overlap * (1 - math.exp(-float(shift @ shift) / (2 * (h**2 + 2))))
    x, y = normal(20, 200, 2), normal(20, 200, 2, seed=1)
    shifted = torch.tensor([mmd.mmd2_unbiased(a, b + shift, h) for a, b in zip(x, y, strict=True)])
    equal = torch.tensor([mmd.mmd2_unbiased(a, b, h) for a, b in zip(x, y, strict=True)])
    for values, mean in ((shifted, expected), (equal, 0.0)):
        assert abs(values.mean() - mean) < 4 * values.std() / math.sqrt(20)
    assert expected > 0.1 and equal.std() < 0.01


def test_the_mmd_bandwidth_is_the_same_for_all_seeds_and_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(mmd, "mmd2_unbiased", lambda x, y, bandwidth: seen.append(bandwidth) or 0.0)
    for seed in range(3):
        mmd.MMD(n=10)(fitted(seed=seed, mean=(float(seed), 0.0)))
    assert len(set(seen)) == 1 and seen[0] == pytest.approx(2 * math.sqrt(math.log(2)), rel=0.05)


# ---- KSD


def test_the_stein_kernel_is_the_autograd_construction() -> None:
    x, c, beta = normal(4, 3), 1.5, -0.4
    score = lambda a: -(a**3) + 0.3  # noqa: E731
    k = lambda a, b: (c**2 + (a - b).square().sum()) ** beta  # noqa: E731
    grad_x, grad_y = torch.func.grad(k, 0), torch.func.grad(k, 1)
    trace = lambda a, b: torch.func.jacrev(grad_x, 1)(a, b).trace()  # noqa: E731
    kernel = ksd.stein_kernel(x, score(x), c, beta)
    for i in range(4):
        for j in range(4):
            a, b = x[i], x[j]
            s, t = score(a), score(b)
            expected = s @ t * k(a, b) + s @ grad_y(a, b) + t @ grad_x(a, b) + trace(a, b)
            assert kernel[i, j] == pytest.approx(float(expected), abs=1e-12)
    off_diagonal = (kernel.sum() - kernel.trace()) / 12
    assert ksd.ksd2_unbiased(x, score(x), c, beta) == pytest.approx(float(off_diagonal))


def test_ksd_is_zero_in_expectation_only_under_p() -> None:
    draws = normal(30, 200, 2)
    values = torch.tensor([ksd.ksd2_unbiased(x, -x, 1.0, -0.5) for x in draws])
    assert abs(values.mean()) < 4 * values.std() / math.sqrt(30) and values.std() < 0.02
    assert ksd.KSD()(fitted(mean=(0.5, 0.0))).value > 0.1
    assert ksd.KSD()(fitted(sd=(0.7, 0.7))).value > 0.05


def test_ksd_needs_no_truth() -> None:
    class Untrue(GaussianTarget):
        sample = Target.sample

    value = ksd.KSD(n=100)(fitted(Explicit, Untrue()))
    assert value.floor is None and math.isfinite(value.value)


# ---- moments and prediction


def test_moment_errors_of_known_laws() -> None:
    target = GaussianTarget((1.0, -2.0, 0.0), (2.0, 0.5, 1.0))
    q = fitted(Explicit, target, mean=(2.0, -2.0, 0.5), sd=(2.0, 0.5, math.exp(0.3)))
    assert moments.MarginalMeanError(n=20_000)(q).value == pytest.approx(0.5 * math.sqrt(2 / 3), abs=0.02)
    assert moments.MarginalSDError(n=20_000)(q).value == pytest.approx(0.3 / math.sqrt(3), abs=0.02)
    x, y = normal(500, 4) @ normal(4, 4, seed=1), normal(400, 4, seed=2)
    pairs = [(i, j) for i in range(4) for j in range(i)]
    a, b = np.corrcoef(x.T.numpy()), np.corrcoef(y.T.numpy())
    expected = math.sqrt(np.mean([(a[i, j] - b[i, j]) ** 2 for i, j in pairs]))
    assert float(moments.correlation_error(x, y)) == pytest.approx(expected)


def test_moments_use_the_whole_reference_and_disjoint_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(
        moments.MarginalMeanError, "error", staticmethod(lambda x, y: seen.append((x, y)) or torch.zeros(()))
    )
    moments.MarginalMeanError()(fitted(Explicit, StoredTarget(torch.arange(100.0)[:, None].repeat(1, 2))))
    (x, whole), (half, other) = seen
    assert len(x) == 4000 and len(whole[:, 0].unique()) == 100
    assert len(half) == len(other) == 50 and len(torch.cat([half, other])[:, 0].unique()) == 100


def test_the_predictive_density_is_averaged_over_draws_before_the_log() -> None:
    q = fitted(SemiImplicit, PosteriorTarget(), mean=(0.4, 0.0))
    metrics, _, _ = evaluate(["test_log_predictive"], q, {"test_log_predictive": {"n": 50}})
    draws = q.draws(50)[:, 0].tolist()
    loop = [math.log(sum(norm.pdf(y, x) for x in draws) / 50) for y in PosteriorTarget.test_y.tolist()]
    assert metrics["test_log_predictive"]["value"] == pytest.approx(sum(loop) / 3, abs=1e-5)
    assert metrics["test_log_predictive"]["floor"] is None


def test_the_floor_of_mmd_is_that_of_disjoint_truth(monkeypatch):
    seen = []
    monkeypatch.setattr(mmd, "mmd2_unbiased", lambda x, y, bandwidth: seen.append((x, y)) or 0.0)
    mmd.MMD(n=10)(fitted(Explicit))
    (_, truth), (other, again) = seen
    assert again is truth and not (other[:, None] == truth).all(-1).any()
