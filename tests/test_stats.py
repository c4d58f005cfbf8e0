"""Intervals and ranks over seeds."""

from __future__ import annotations

import numpy as np
import pytest

from bench import stats


def _row(values):
    return dict(enumerate(values))


def test_interval_of_many_values_is_the_normal_one():
    x = np.random.default_rng(0).normal(3.0, 2.0, 400)
    low, high = stats.interval(x.tolist())
    half = 1.96 * x.std(ddof=1) / 20
    assert low == pytest.approx(x.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(x.mean() + half, abs=0.1 * half)


def test_interval_of_known_small_data():
    assert stats.interval([1.0, 1.0, 1.0]) == (1.0, 1.0)
    # of few seeds it is Student's where that is wider: t_1 = 12.7, standard error 1/2
    assert stats.interval([1.0, 2.0]) == pytest.approx((1.5 - 6.353, 1.5 + 6.353), abs=1e-3)
    assert stats.interval([1.0, 2.0], "median") == pytest.approx((1.0, 2.0))
    summary = stats.summarise([4.0, 1.0, 2.0, 3.0])
    assert (summary.n, summary.mean, summary.median) == (4, 2.5, 2.5)
    assert summary.low == pytest.approx(2.5 - 2.054, abs=1e-3) and summary.high == pytest.approx(4.554, abs=1e-3)


def test_interval_ignores_the_order_of_seeds():
    x = [0.3, 0.1, 0.25, 0.9, 0.4]
    assert stats.interval(x) == stats.interval(x[::-1])
    assert stats.interval(x, "median") == stats.interval(x[::-1], "median")


@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_interval_covers_with_few_seeds(n):
    draws = np.random.default_rng(1).normal(size=(400, n))
    covered = [low <= 0.0 <= high for low, high in (stats.interval(x.tolist()) for x in draws)]
    assert 0.92 < np.mean(covered) <= 1.0


def test_single_seed_has_no_interval():
    summary = stats.summarise([2.0])
    assert summary.mean == 2.0 and summary.low is None and summary.half is None


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf"), 1.0]])
def test_undefined_values_are_refused(values):
    with pytest.raises(ValueError, match="finite"):
        stats.summarise(values)


def test_equal_methods_are_rarely_separated():
    rng = np.random.default_rng(2)
    wrong = [stats.separable(_row(rng.normal(size=4)), _row(rng.normal(size=4))) for _ in range(400)]
    assert np.mean(wrong) < 0.08


def test_pairing_by_seed_removes_the_shared_noise():
    rng = np.random.default_rng(3)
    shared = rng.normal(0, 10, 6)
    a, b = _row(shared), _row(shared + 0.5 + 0.01 * rng.normal(size=6))
    assert stats.separable(a, b)
    assert not stats.separable(a, {seed + 100: value for seed, value in b.items()})


def test_ties_share_a_rank_and_the_next_rank_counts_them():
    rows = {
        "b": _row([1.0, 1.2, 0.9, 1.1]),
        "a": _row([1.1, 0.9, 1.2, 1.05]),
        "c": _row([5.0, 5.1, 4.9, 5.2]),
        "empty": {},
    }
    assert stats.ranks(rows) == {"a": 1, "b": 1, "c": 3}
    assert stats.ranks(rows, "higher") == {"c": 1, "a": 2, "b": 2}


def test_one_seed_is_never_separable():
    assert stats.ranks({"a": {0: 1.0}, "b": {0: 100.0}}) == {"a": 1, "b": 1}


def test_constant_rows():
    assert not stats.separable(_row([1.0] * 3), _row([1.0] * 3))
    assert stats.separable(_row([1.0] * 3), _row([2.0] * 3))
    assert stats.separable({0: 1.0, 1: 1.0}, {7: 2.0, 8: 2.0})
