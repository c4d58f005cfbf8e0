"""KS metrics against SciPy, and how metrics see a reparametrised target."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from bench.metrics.base import Fitted
from bench.metrics.evaluate import evaluate
from bench.metrics.ks import KSDistanceP, KSDistanceR, KSMax, KSPValueP, KSPValueR, ks_distances
from bench.registry import entries
from metric_fakes import Explicit, GaussianTarget, fitted


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def noncentred(name: str) -> Fitted:
    """A standard Gaussian q in the coordinates of a non-centred target."""
    target = entries("target")[name].obj(parametrization="noncentered")
    return fitted(Explicit, target, mean=(0.0,) * target.dim, sd=(1.0,) * target.dim)


def test_distances_are_scipys_also_with_ties() -> None:
    x, y = normal(300, 3), 0.8 * normal(200, 3, seed=1) + 0.2
    x[:, 2], y[:, 2] = x[:, 2].round(), y[:, 2].round()
    expected = [stats.ks_2samp(a, b).statistic for a, b in zip(x.numpy().T, y.numpy().T, strict=True)]
    np.testing.assert_allclose(ks_distances(x, y).numpy(), expected, rtol=1e-12)
    x[0, 1] = math.nan
    assert ks_distances(x, y).isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("shift", [0.0, 0.1])
def test_distance_and_p_value_of_both_marginals(shift: float) -> None:
    target = GaussianTarget()
    target.coordinate_names = ("r", "p")
    q = fitted(Explicit, target, mean=(shift, 3 * shift))
    x, y = q.draws(2000).numpy(), q.truth_pair(2000)[0].numpy()
    for i, (distance, p_value) in enumerate([(KSDistanceR, KSPValueR), (KSDistanceP, KSPValueP)]):
        expected = stats.ks_2samp(x[:, i], y[:, i], method="asymp")
        assert distance()(q).value == pytest.approx(expected.statistic, rel=1e-6)
        # SciPy's asymptotic p-value uses n m / (n + m) = 1000, too, with a small-sample rounding of its own
        assert p_value()(q).value == pytest.approx(expected.pvalue, rel=0.2, abs=1e-3)
    assert KSMax()(q).value == pytest.approx(max(KSDistanceR()(q).value, KSDistanceP()(q).value))
    assert 0 < KSMax()(q).floor < 0.06  # P(D > .06) is .001 for two samples of 2000


def test_marginals_need_a_name() -> None:
    q = fitted()
    assert "no coordinate called r" in (KSDistanceR().applies(q.method, q.target) or "")


def test_exact_draws_in_other_coordinates_are_exact_draws() -> None:
    """Non-centred, the funnel is a standard Gaussian: every metric must find this q at its floor."""
    q = noncentred("funnel")
    metrics, _, skipped = evaluate(["ks_max", "sliced_w1", "mmd", "ksd"], q, {"sliced_w1": {"repeats": 2}})
    assert not skipped
    assert metrics["ks_max"]["value"] < 0.07
    assert metrics["sliced_w1"]["value"] < 3 * metrics["sliced_w1"]["floor"]
    assert abs(metrics["mmd"]["value"]) < 3e-3
    torch.testing.assert_close(q.draws(50), q.target.to_original(q.fitted_draws(50)))
    centred = entries("target")["funnel"].obj()
    wrong = evaluate(["ks_max"], fitted(Explicit, centred, mean=(0.0,) * 10, sd=(1.0,) * 10))[0]
    assert wrong["ks_max"]["value"] > 0.15


def test_histograms_do_not_mix_coordinates() -> None:
    q = noncentred("linear_pair")
    metrics, _, skipped = evaluate(["js_hist", "kl_reverse_grid"], q)
    assert "reparametrised" in skipped["js_hist"] and metrics["kl_reverse_grid"]["value"] > 0


def test_each_marginal_finds_its_own_published_value() -> None:
    from bench.report.published import find

    for metric, value in (("ks_distance_r", 0.0185), ("ks_distance_p", 0.02), ("ks_pvalue_r", 0.88)):
        assert [row.value for row in find("sivi", "nb_mites", metric)] == [value]
