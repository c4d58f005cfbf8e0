"""Intervals and ranks over seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm, ttest_1samp, ttest_ind

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
    summary = stats.summarise([4.0, 1.0, 2.0, 3.0])
    assert (summary.n, summary.mean, summary.median) == (4, 2.5, 2.5)
    assert summary.low == pytest.approx(2.5 - 2.054, abs=1e-3) and summary.high == pytest.approx(4.554, abs=1e-3)


def test_interval_ignores_the_order_of_seeds():
    x = [0.3, 0.1, 0.25, 0.9, 0.4]
    assert stats.interval(x) == stats.interval(x[::-1])


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


def test_both_intervals_must_exclude_zero():
    skewed = [-0.3, 1.0, 1.0, 1.0, 1.0]  # Student's excludes 0, the bootstrap's does not
    assert ttest_1samp(skewed, 0.0).pvalue < 0.05 and stats.interval(skewed)[0] < 0
    assert not stats.separable(_row(skewed), _row([0.0] * 5))
    # two against two other seeds: resampled means are 0.5 to 1.5 apart, but Welch's p is 0.11
    assert not stats.separable({0: 1.0, 1: 1.5}, {7: 2.0, 8: 2.5})


def test_half_of_the_seeds_in_common_are_enough_to_pair():
    a = {seed: 10.0 * seed for seed in range(4)}
    b = {seed: 10.0 * seed + 1.0 + 0.01 * seed for seed in range(2, 6)}
    assert stats.separable(a, b)  # two common seeds of four: differences 1.02 and 1.03
    assert not stats.separable(a, {seed + 1: value for seed, value in b.items()})  # one common seed


def test_rows_are_not_told_apart_against_their_order():
    a = {seed: 1.0 if seed < 5 else 0.0 for seed in range(10)}
    b = {seed: 0.9 for seed in range(5)}
    assert stats.ranks({"a": a, "b": b}) == {"a": 1, "b": 1}  # b is ahead on every common seed, a's mean is lower


def test_the_interval_of_seven_seeds_holds_students():
    x = [0.0] * 6 + [1.0]
    half = 2.4469 * (1 / 7)  # t_6 times the standard error
    low, high = stats.interval(x)
    assert low == pytest.approx(1 / 7 - half, abs=1e-3) and high >= 1 / 7 + half - 1e-3


def test_the_larger_floor_blurs_a_difference():
    rows = {"a": _row([1.0, 1.1, 0.9, 1.0]), "b": _row([2.0, 2.1, 1.9, 2.0])}
    assert stats.ranks(rows, blur={"a": 0.1, "b": 1.5}) == {"a": 1, "b": 1}
    assert stats.ranks(rows, blur={"a": 0.1, "b": 0.5}) == {"a": 1, "b": 2}


def test_rows_of_unequal_size_and_spread_are_compared_by_welchs_test():
    few, many = {100: 1.0, 101: 2.0, 102: 6.0}, _row([0.1 * (-1) ** i for i in range(20)])
    assert not stats.separable(few, many)  # Welch: p = .19; with pooled variances p would be 1e-8


def test_unpaired_rows_are_resampled_apart():
    # two equal shapes: resampled together their difference never varies, apart it reaches 0
    a, b = _row([0.0, 1.0, 2.0, 3.0]), {100 + i: 2.4 + i for i in range(4)}
    assert ttest_ind(list(a.values()), list(b.values()), equal_var=False).pvalue < 0.045
    assert not stats.separable(a, b)


def test_the_tail_of_unpaired_rows_is_that_of_the_smaller():
    # Welch: p = .017 with 19 degrees of freedom; three values allow no more than the extremes of the resampled means
    few, many = {100: 1.05, 101: 1.1, 102: 1.15}, _row(np.linspace(-3.0, 3.0, 20))
    assert ttest_ind(list(few.values()), list(many.values()), equal_var=False).pvalue < 0.02
    assert not stats.separable(few, many) and not stats.separable(many, few)


def test_the_tail_is_moved_out_by_student_and_by_the_divisor():
    # t_9 = 2.262157 at 97.5 %
    assert stats._expanded_tail(10, 0.95) == pytest.approx(norm.cdf(-math.sqrt(10 / 9) * 2.262157), rel=1e-5)
