"""Divergences on grids and histograms against quadrature, closed forms and NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.spatial.distance import jensenshannon
from scipy.stats import norm
from torch.distributions import Independent, MultivariateNormal, Normal

from bench.metrics import density_grid, js_hist, mixture
from bench.metrics.divergence import js_of_shares
from bench.metrics.evaluate import evaluate
from bench.metrics.grid_divergence import JSGrid, KLForwardGrid, KLReverseGrid
from metric_fakes import Explicit, GaussianTarget, SemiImplicit, fitted


def normal(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def gaussian_kl(mean1, sd1, mean2, sd2) -> float:
    pairs = zip(mean1, sd1, mean2, sd2, strict=True)
    return sum(math.log(t / s) + (s * s + (m - k) ** 2) / (2 * t * t) - 0.5 for m, s, k, t in pairs)


@pytest.mark.parametrize(("mean", "sd"), [(0.7, 1.0), (0.0, 2.0), (4.0, 0.5)])
def test_js_grid_is_the_integral(mean: float, sd: float) -> None:
    def integrand(x: float) -> float:
        a, b = norm.pdf(x), norm.pdf(x, mean, sd)
        return sum(0.5 * u * math.log(2 * u / (a + b)) for u in (a, b) if u > 0)

    expected = quad(integrand, -15, 15, limit=200)[0]
    value = JSGrid()(fitted(mean=(0.0, mean), sd=(1.0, sd)))
    assert value.value == pytest.approx(expected, abs=1e-4) and value.floor == 0.0


def test_kl_grid_is_the_closed_form_in_both_directions() -> None:
    p, q = ((0.2, -0.5), (1.5, 1.0)), ((0.0, 0.5), (1.0, 0.8))
    fit = fitted(Explicit, GaussianTarget(*p), mean=q[0], sd=q[1])
    assert KLReverseGrid()(fit).value == pytest.approx(gaussian_kl(*q, *p), rel=1e-4)
    assert KLForwardGrid()(fit).value == pytest.approx(gaussian_kl(*p, *q), rel=1e-4)


def test_the_mixture_density_agrees_with_the_exact_one() -> None:
    law = {"mean": (0.5, -0.3), "sd": (1.2, 0.8)}
    explicit, semi_implicit = fitted(Explicit, **law), fitted(SemiImplicit, **law)
    for metric in (JSGrid(), KLReverseGrid(), KLForwardGrid()):
        exact, mixture = metric(explicit), metric(semi_implicit)
        assert mixture.value == pytest.approx(exact.value, rel=0.05)
        assert 0 < mixture.floor < 1e-3
        assert metric.__class__(mixture=200)(semi_implicit).floor > 10 * mixture.floor


def test_the_fast_product_is_the_generic_mixture() -> None:
    loc, scale = normal(50, 2), normal(50, 2, seed=1).exp()
    axis1, axis2 = torch.linspace(-3, 3, 7).double(), torch.linspace(-2, 4, 5).double()
    points = torch.cartesian_prod(axis1, axis2)
    fast, full = Independent(Normal(loc, scale), 1), MultivariateNormal(loc, scale_tril=torch.diag_embed(scale))
    assert density_grid.is_separable(fast) and not density_grid.is_separable(full)
    expected = mixture.log_mixture(full, points)
    torch.testing.assert_close(density_grid.separable_log_mixture(fast, axis1, axis2).flatten(), expected)
    loop = torch.stack([fast.log_prob(x).logsumexp(0) - math.log(50) for x in points])
    torch.testing.assert_close(mixture.log_mixture(fast, points), loop)
    far = density_grid.separable_log_mixture(fast, axis1 + 1e4, axis2)
    assert far.isfinite().all() and (far < -700).all()


def test_a_full_covariance_takes_the_generic_path_to_the_same_value() -> None:
    separable, full = fitted(SemiImplicit, mean=(0.5, 0.0)), fitted(SemiImplicit, mean=(0.5, 0.0))
    full.method.full = True
    small = JSGrid(n1=40, n2=50, mixture=300)
    assert small(full).value == pytest.approx(small(separable).value, rel=1e-4)


def test_mass_outside_the_window_counts() -> None:
    target = GaussianTarget(half_width=6.0)
    assert JSGrid()(fitted(Explicit, target, mean=(20.0, 0.0))).value == pytest.approx(math.log(2), abs=1e-6)
    half = fitted(Explicit, target, mean=(6.0, 0.0), sd=(0.1, 1.0))  # half of q is on the window, beside p
    masses = density_grid.grid_masses(half, 240, 480, 1)
    assert masses.log_q[-1].exp() == pytest.approx(0.5, abs=1e-3)
    for log_mass in (masses.log_q, masses.log_p):
        assert log_mass.exp().sum() == pytest.approx(1.0, abs=1e-6)


def test_a_wrong_normaliser_is_seen() -> None:
    target = GaussianTarget()
    target.log_z -= math.log(2)  # p now sums to 2
    metrics, _, skipped = evaluate(["js_grid"], fitted(Explicit, target))
    assert not metrics and "p's mass on the grid is 2" in skipped["js_grid"]
    target.log_z += math.log(4)  # and now to 1/2: the rest would lie outside
    metrics, _, skipped = evaluate(["js_grid"], fitted(Explicit, target))
    assert not metrics and "p's mass on the grid is 0.5" in skipped["js_grid"]
    target.window_mass = 0.5
    assert JSGrid()(fitted(Explicit, target)).value > 0.1


def test_a_q_narrower_than_a_cell_is_far_from_p() -> None:
    value = JSGrid()(fitted(Explicit, mean=(0.0375, 0.01875), sd=(1e-4, 1e-4))).value  # on a cell's centre
    assert value == pytest.approx(math.log(2), abs=1e-2)


def test_the_grid_is_evaluated_once_for_three_metrics() -> None:
    q = fitted(SemiImplicit)
    evaluate(["js_grid", "kl_reverse_grid", "kl_forward_grid"], q)
    assert q.method.mixing_calls == 2  # the value's mixture and the floor's
    evaluate(["js_grid"], q, {"js_grid": {"mixture": 100}})
    assert q.method.mixing_calls == 4


# ---- histograms


def test_histogram_counts_like_numpy_and_keeps_the_outside() -> None:
    x, window = 2 * normal(5000, 2), ((-2.0, 3.0), (-1.0, 1.5))
    shares = js_hist.histogram(x, window, 8)
    counts, _, _ = np.histogram2d(*x.numpy().T, bins=8, range=window)
    np.testing.assert_allclose(shares[:-1].numpy() * 5000, counts.ravel())
    assert shares[-1] == pytest.approx(1 - counts.sum() / 5000) and shares[-1] > 0.1


def test_js_hist_of_equal_and_of_disjoint_laws() -> None:
    equal = js_hist.JSHist()(fitted())
    assert 0 < equal.value < 1.5 * equal.floor and equal.floor < 0.02
    for mean in ((100.0, 0.0), (8.0, 8.0)):  # outside the window; inside it
        assert js_hist.JSHist(n=2000)(fitted(mean=mean, sd=(0.1, 0.1))).value == pytest.approx(math.log(2), abs=1e-6)


def test_js_of_shares_is_scipys() -> None:
    assert js_of_shares(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0])) == pytest.approx(0.215762, abs=1e-6)
    window = ((-3.0, 3.0), (-3.0, 3.0))
    for shift in (0.0, 0.1, 2.0, 50.0):
        a, b = (js_hist.histogram(normal(20_000, 2, seed=seed) + s, window, 64) for seed, s in enumerate((0.0, shift)))
        assert js_of_shares(a, b) == pytest.approx(jensenshannon(a.numpy(), b.numpy()) ** 2, abs=1e-14)
        assert math.isnan(js_of_shares(a, b * float("nan")))
