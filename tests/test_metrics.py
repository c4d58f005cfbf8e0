"""What every metric promises, and how values become fields of a record."""

from __future__ import annotations

import inspect
import json
import math

import pytest
import torch

from bench.errors import UserError
from bench.metrics.base import Fitted
from bench.metrics.evaluate import evaluate
from bench.registry import entries, get
from metric_fakes import (
    Explicit,
    GaussianTarget,
    HalfPlaneTarget,
    Implicit,
    PosteriorTarget,
    SemiImplicit,
    StoredTarget,
    fitted,
)

METRICS = sorted(entries("metric"))
GRID = {"js_grid", "kl_reverse_grid", "kl_forward_grid"}
OURS = GRID | {"js_hist", "sliced_w1", "sliced_w2", "mmd", "ksd", "test_log_predictive"}
OURS |= {"marginal_mean_error", "marginal_sd_error", "correlation_rmse"}
# Cheaper protocols, so that the whole file takes seconds.
QUICK = {name: {"mixture": 1000, "n1": 120, "n2": 120} for name in GRID} | {"mmd": {"n": 500, "bandwidth_draws": 200}}
QUICK |= {"kl_forward_mc": {"n": 4000, "latents": 4000}, "nll_target_draws": {"n": 4000, "latents": 4000}}
QUICK |= {"sliced_w1": {"repeats": 2}, "sliced_w2": {"repeats": 2}, "ksd": {"n": 300}}


def test_all_metrics_are_registered_and_apply_to_a_full_toy() -> None:
    q = fitted(SemiImplicit, PosteriorTarget())
    applicable = {name for name in METRICS if get("metric", name).obj().applies(q.method, q.target) is None}
    assert applicable >= OURS


MINUTES = {"mmd_rejection_rate", "score_error"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in MINUTES else n for n in METRICS])
def test_contract(name: str) -> None:
    """q is p: the value is finite, at the level of its floor, and the same when asked twice."""
    entry = get("metric", name)
    assert entry.source and entry.description and inspect.getdoc(entry.obj)
    assert entry.obj.direction in ("lower", "higher")
    metric = entry.obj(**QUICK.get(name, {}))
    q = fitted(SemiImplicit, PosteriorTarget(), seed=3)
    reason = metric.applies(q.method, q.target)
    if reason is not None:
        assert name not in OURS and isinstance(reason, str) and reason
        return
    first = metric(q)
    assert math.isfinite(first.value)
    assert metric(fitted(SemiImplicit, PosteriorTarget(), seed=3)) == first
    assert metric(fitted(SemiImplicit, PosteriorTarget(), seed=4)) != first
    if entry.obj.direction == "lower" and first.floor is not None:
        assert abs(first.floor) < 0.15 or not metric.floor_is_noise
        assert abs(first.value - (0.0 if metric.floor_is_noise else first.floor)) < 0.15
    if name in OURS:
        assert not any(p.grad is not None for p in q.method.parameters())


@pytest.mark.parametrize("name", sorted(OURS))
def test_a_wrong_q_is_worse(name: str) -> None:
    metric = get("metric", name).obj(**QUICK.get(name, {}))
    target = PosteriorTarget()
    right, wrong = fitted(Explicit, target), fitted(Sheared, target, mean=(3.0, -3.0), sd=(0.5, 0.5))
    value, other = metric(right).value, metric(wrong).value
    assert other > value + 0.1 if metric.direction == "lower" else other < value - 0.1


class Sheared(Explicit):
    """Off in mean, scale and correlation at once (its density ignores the correlation)."""

    def sample(self, n, noise):
        x = super().sample(n, noise)
        return x + 0.5 * (x[:, :1] - self.mean[0]) * torch.tensor([0.0, 1.0])


@pytest.mark.parametrize("name", sorted(OURS))
def test_the_protocol_id_depends_on_every_key(name: str) -> None:
    cls = get("metric", name).obj
    default = cls()
    json.dumps(default.protocol(), allow_nan=False)
    assert set(default.protocol()) == {"metric", "version", *get("metric", name).parameters}
    ids = {default.protocol_id()}
    for key, parameter in get("metric", name).parameters.items():
        ids.add(cls(**{key: parameter.default + 1}).protocol_id())
    assert len(ids) == 1 + len(get("metric", name).parameters)
    assert cls().protocol_id() == default.protocol_id()


def test_protocols_of_different_metrics_differ() -> None:
    assert len({get("metric", name).obj().protocol_id() for name in METRICS}) == len(METRICS)


def test_evaluate_gives_the_fields_of_a_record() -> None:
    q = fitted(SemiImplicit)
    names = ["js_grid", "mmd", "test_log_predictive"]
    metrics, protocols, skipped = evaluate(names, q, {"mmd": {"n": 100}, "ksd": {"n": 7}})
    assert set(metrics) == {"js_grid", "mmd"}
    assert skipped == {"test_log_predictive": "the target has no test data"}
    assert metrics["mmd"].keys() == {"value", "floor", "protocol"}
    assert {m["protocol"] for m in metrics.values()} == set(protocols)
    assert protocols[metrics["mmd"]["protocol"]] == {"metric": "mmd", "version": 1, "n": 100, "bandwidth_draws": 1000}
    assert metrics["mmd"]["protocol"] != get("metric", "mmd").obj().protocol_id()
    json.dumps([metrics, protocols, skipped], allow_nan=False)


def test_evaluate_says_why_a_metric_was_skipped() -> None:
    names = sorted(OURS)
    _, _, skipped = evaluate(names, fitted(Implicit), QUICK)
    assert set(skipped) == GRID | {"test_log_predictive"}
    assert "neither log_prob nor mixing" in skipped["js_grid"]
    one = fitted(Explicit, GaussianTarget((0.0,), (1.0,)), mean=(0.0,), sd=(1.0,))
    assert set(evaluate(names, one, QUICK)[2]) == GRID | {"test_log_predictive", "js_hist", "correlation_rmse"}
    stored = fitted(Explicit, StoredTarget(torch.randn(1500, 2, generator=torch.Generator().manual_seed(0))))
    metrics, _, skipped = evaluate(names, stored, QUICK)
    assert "fewer than 2000 reference draws" in skipped["sliced_w2"]
    assert {"ksd", "marginal_mean_error"} <= set(metrics)


def test_evaluate_stores_null_for_a_value_that_is_not_finite() -> None:
    names = ["kl_reverse_grid", "sliced_w1", "js_hist"]
    metrics, protocols, skipped = evaluate(names, fitted(Explicit, HalfPlaneTarget()), {"js_hist": {"n": 50}})
    assert metrics["kl_reverse_grid"]["value"] is None and "inf" in skipped["kl_reverse_grid"]
    assert set(metrics) == set(names) and set(skipped) == {"kl_reverse_grid"} and len(protocols) == 3
    metrics, _, skipped = evaluate(sorted(OURS), fitted(Explicit, PosteriorTarget(), mean=(math.nan, 0.0)), QUICK)
    assert set(skipped) == OURS and all(entry["value"] is None for entry in metrics.values())
    json.dumps(metrics, allow_nan=False)


def test_evaluate_rejects_unknown_names() -> None:
    with pytest.raises(UserError, match="did you mean 'js_grid'"):
        evaluate(["js_gird"], fitted())
    with pytest.raises(UserError, match="no argument 'bins'.*\n.*n1, n2, mixture"):
        evaluate(["js_grid"], fitted(), {"js_grid": {"bins": 3}})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", sorted(OURS))
def test_the_device_does_not_change_the_value(name: str) -> None:
    cpu = fitted(SemiImplicit, PosteriorTarget(), mean=(0.3, 0.0))
    target = PosteriorTarget().cuda()
    gpu = Fitted(SemiImplicit(target, mean=(0.3, 0.0)).cuda(), target, 0, "cuda")
    metric = get("metric", name).obj(**QUICK.get(name, {}))
    assert metric(gpu).value == pytest.approx(metric(cpu).value, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", sorted(entries("metric")))
def test_a_metric_knows_the_protocol_it_wrote(name):
    metric = entries("metric")[name].obj()
    written = json.loads(json.dumps(metric.protocol()))
    assert metric.measured(written | {"features": "what it was measured against"})
    assert not metric.measured(written | {"version": -1})
