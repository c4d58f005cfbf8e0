"""The verdict on a cell: the rule, and what of the records it is given."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import ttest_ind

from bench.metrics.evaluate import build
from bench.registry import discover, entries
from bench.reproduce.compare import Compared, Planned, compare
from bench.reproduce.tables import CellSpec
from bench.reproduce.verdict import Printed, Verdict, difference, half_unit, judge, printed, tolerance


@pytest.mark.parametrize(
    ("value", "expected"), [("0.597", 5e-4), ("74528", 0.5), ("5.3e-64", 5e-66), ("2.50", 5e-3), ("1e-5", 5e-6)]
)
def test_half_a_unit_of_the_last_digit(value: str, expected: float) -> None:
    assert half_unit(value) == pytest.approx(expected)


def test_printed_spreads() -> None:
    row = {"value": "2.5", "spread": "0.00", "spread_kind": "sd", "n_runs": "10", "comparable": "yes"}
    assert printed(row).sd == pytest.approx(0.005)
    error = printed({**row, "spread": "0.2", "spread_kind": "se", "comparable": "no"})
    assert error.sd == pytest.approx(0.2 * math.sqrt(10)) and not error.comparable
    assert printed({**row, "spread": "0.2", "spread_kind": "se", "n_runs": ""}).sd == 0.2
    assert printed({**row, "spread": ""}).sd is None


def test_the_tolerance_is_the_largest_of_its_parts() -> None:
    ours = [1.0, 1.1, 1.2]  # standard deviation 0.1
    assert tolerance(Printed(1.0, 0.05, 0.02), ours, None) == pytest.approx(0.2)
    assert tolerance(Printed(1.0, 0.05, 0.3), ours, None) == pytest.approx(0.6)
    assert tolerance(Printed(1.0, 0.05, 0.02), ours, 0.25) == 0.25
    assert tolerance(Printed(1.0, 0.4), ours, 0.25) == 0.4
    assert tolerance(Printed(1.0, 0.05), [1.0], None) == 0.05


@pytest.mark.parametrize(
    ("values", "direction", "verdict"),
    [
        ([1.18, 1.20, 1.19], "lower", Verdict.AGREES),  # 0.19 above, within 2 x 0.1
        ([1.24, 1.26, 1.25], "lower", Verdict.WORSE),
        ([1.24, 1.26, 1.25], "higher", Verdict.BETTER),
        ([0.7, 0.71, 0.72], "lower", Verdict.BETTER),
        ([0.7, 0.71, 0.72], "higher", Verdict.WORSE),
        ([1.0, 1.0], "lower", Verdict.FEW),
        ([], "lower", Verdict.NOT_RUN),
    ],
)
def test_verdicts(values: list[float], direction: str, verdict: Verdict) -> None:
    assert judge(Printed(1.0, 0.005, 0.1), values, direction=direction) is verdict


def test_what_takes_a_verdict_away() -> None:
    number, same = Printed(1.0, 0.005, 0.1), [1.0, 1.0, 1.0]
    assert judge(number, same, direction="lower") is Verdict.AGREES
    assert judge(number, same, direction="lower", full=False) is Verdict.REDUCED
    assert judge(number, same, direction="lower", doubt=True) is Verdict.UNCLEAR
    assert judge(number, same, direction="lower", meant=False) is Verdict.NOT_JUDGED
    assert judge(Printed(1.0, 0.005, 0.1, comparable=False), same, direction="lower") is Verdict.UNCLEAR
    assert judge(None, same, direction="lower") is Verdict.NO_NUMBER
    assert judge(number, same, direction="lower", diverged=4) is Verdict.WORSE
    assert judge(number, same, direction="lower", diverged=3) is Verdict.AGREES
    assert judge(number, [], direction="lower", diverged=10) is Verdict.WORSE


def test_means_differ_where_welchs_test_says_so() -> None:
    """Against scipy's own test, on samples with exactly the printed mean and spread."""
    ours, theirs = [2.60, 2.64, 2.70, 2.58, 2.66], np.array([-1.0, 1.0, -1.0, 1.0])
    theirs = 2.555 + 0.02 * theirs / theirs.std(ddof=1)
    number = Printed(2.555, 0.0, 0.02, runs=4)
    assert difference(number, ours) == pytest.approx(ttest_ind(ours, theirs, equal_var=False).pvalue)
    assert difference(replace(number, rounding=0.1), ours) == 1.0  # no more than the rounding
    assert difference(replace(number, runs=None), ours) is None and difference(replace(number, sd=None), ours) is None


def test_what_is_judged_above_the_truth() -> None:
    """Draws that move value and floor alike move no verdict; the printed truth is taken off the printed number."""
    numbers = {
        "truth": {"value": "3.4663", "spread": "", "spread_kind": "", "n_runs": "", "comparable": "yes"},
        "q": {"value": "3.4703", "spread": "0.0010", "spread_kind": "sd", "n_runs": "3", "comparable": "yes"},
    }
    metric = "nll_target_draws"
    protocol = build(metric, {}).protocol()

    def above(excess: float) -> Compared:
        moved = enumerate((3.40, 3.47, 3.53))
        records = {
            seed: {
                "status": "done",
                "metrics": {metric: {"value": floor + excess, "floor": floor, "protocol": "p"}},
                "protocols": {"p": protocol},
            }
            for seed, floor in moved
        }
        q = CellSpec("q", "c", metric, (), "q", excess_over="truth")
        cells = [Planned(q, None, "", records), Planned(CellSpec("truth", "c", metric, (), "truth"), None)]
        return compare(cells, numbers, budget=1)[0]

    assert [above(x).verdict for x in (0.004, 0.0061, 0.0019)] == [Verdict.AGREES, Verdict.WORSE, Verdict.BETTER]
    assert "printed 0.004, ours 0.0061" in above(0.0061).remark


def test_the_distance_of_perfect_draws_is_no_tolerance() -> None:
    """Two samples of p are apart; a method whose distance lies that much lower or higher is not the same for it."""
    discover()
    distances = ("sliced_w_pot", "sliced_w2", "truncated_w_5", "ks_distance_r", "js_sets", "fd_digits")
    for name in (*distances, "marginal_mean_error", "elbo_lower", "entropy_upper"):
        assert not entries("metric")[name].obj.floor_is_noise
    assert entries("metric")["kl_forward_mc"].obj.floor_is_noise


def test_p_values_are_not_ranked() -> None:
    """Uniform for draws of p: of two that are not small none is better."""
    assert [entries("metric")[f"ks_pvalue_{name}"].obj.ranked for name in "rp"] == [False, False]


def printed_cells(**cells):
    """Rows of published.csv by id, from (value, spread, kind of spread, runs) as far as they are printed."""
    names = ("value", "spread", "spread_kind", "n_runs")
    return {
        key: dict(zip(names, (*texts, *[""] * (4 - len(texts))), strict=True)) | {"comparable": "yes"}
        for key, texts in cells.items()
    }


def cell_of(metric, values, number, *, floor=None, **spec):
    records = {
        seed: {
            "status": "done",
            "metrics": {metric: {"value": value, "floor": floor, "protocol": "p"}},
            "protocols": {"p": build(metric, {}).protocol()},
        }
        for seed, value in enumerate(values)
    }
    cells = [Planned(CellSpec("q", "c", metric, (), "q", **spec), None, "", records)]
    if spec:
        cells.append(Planned(CellSpec("truth", "c", metric, (), "truth"), None))
    return compare(cells, number, budget=1)[0]


def test_a_cell_that_agrees_says_whether_the_means_differ():
    near, far = [1.0, 1.01, 0.99, 1.0, 1.0], [1.10, 1.11, 1.12, 1.09, 1.13]
    row = printed_cells(q=("1.00", "0.06", "sd", "10"))
    assert [cell_of("sliced_w2", v, row).differs for v in (near, far)] == [False, True]
    wide = [1.0, 1.1, 1.2, 1.05, 1.15]  # Student's interval: 1.1 +- 0.098
    found = [cell_of("sliced_w2", wide, printed_cells(q=(value,))) for value in ("1.05", "0.95")]
    assert [c.verdict for c in found] == ["agrees", "agrees"] and [c.differs for c in found] == [False, True]


@pytest.mark.parametrize(
    ("values", "printed", "floor", "words"),
    [
        ([1.0, 1.1, 1.2, 1.05, 1.15], ("0.95",), None, "by our spread; the printed number, of unknown spread"),
        ([1.0, 1.01, 0.99], ("1.1", "0.1", "sd"), None, "by the printed spread; the printed number, of an unknown"),
        ([1.0, 1.01, 0.99], ("1.10",), 0.2, "by the noise floor, 0.2; the printed number, of unknown spread"),
        ([1.0, 1.01, 0.99], ("1.15", "0.1", "sd", "10"), None, "by the printed spread; the means differ"),
    ],
)
def test_a_cell_that_agrees_says_by_what(values, printed, floor, words):
    found = cell_of("kl_forward_mc", values, printed_cells(q=printed), floor=floor)
    assert found.verdict == "agrees" and found.remark.startswith(words)


def test_what_counts_as_tolerance_and_as_failure():
    value = printed_cells(q=("0.00",))
    assert cell_of("elbo_lower", [-1.0, -1.01, -1.02], value, floor=3.0).verdict == "worse"
    assert cell_of("sliced_w2", [0.0, None, None], value).verdict == "worse"  # not finite, like diverged
    both = printed_cells(q=("3.47",), truth=("3.46",))
    found = cell_of("nll_target_draws", [3.4785] * 3, both, floor=3.46, excess_over="truth")
    assert found.verdict == "agrees"  # .0085 apart, two numbers rounded to .005
