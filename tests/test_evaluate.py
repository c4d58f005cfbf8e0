"""Metrics added to finished runs, and options added to components, change neither ids nor what was measured."""

from __future__ import annotations

import json

import pytest

from bench import claims
from bench.check import check_store
from bench.config import Config, compose
from bench.errors import UserError
from bench.evaluate import add_metrics, missing
from bench.metrics.base import Metric
from bench.registry import get
from bench.run import execute
from bench.store import Store

RUN = ["method=sivi", "target=banana", "tuned=none", "train.iterations=3", "method.outer=4", "method.auxiliary=2"]
CHEAP = ["eval.curve_points=0", "eval.metrics=[mmd]", "device=cpu", "seeds=2"]


@pytest.fixture
def store(tmp_path):
    execute(compose([*RUN, *CHEAP, f"paths.results={tmp_path}"]))
    return Store(tmp_path)


def test_a_metric_added_later_equals_one_measured_at_once(store, tmp_path):
    lines: list[str] = []
    assert add_metrics(store, store.records(), ["sliced_w2"], tell=lines.append) == (2, 0)
    at_once = execute(compose([*RUN, *CHEAP, "eval.metrics=[sliced_w2]", f"paths.results={tmp_path / 'other'}"]))
    for later, now in zip(store.records(), at_once, strict=True):
        assert later["metrics"]["sliced_w2"] == now["metrics"]["sliced_w2"]
        assert later["evaluated_later"][0]["metrics"] == ["sliced_w2"] and "mmd" in later["metrics"]
    assert len(lines) == 2 and "sliced_w2" in lines[0]
    assert [p for p in check_store(store) if p.level == "error"] == []
    assert add_metrics(store, store.records(), ["sliced_w2"], tell=lines.append) == (0, 0)


def test_a_device_is_refused_even_if_there_is_nothing_to_measure(store):
    with pytest.raises(UserError, match="unknown device 'tpu'"):
        add_metrics(store, [], ["mmd"], device="tpu", tell=print)


def test_lost_damaged_and_foreign_parameters_are_counted_and_stop_nothing(store):
    first, second = sorted(store.parameters.iterdir())
    lines: list[str] = []
    whole = first.read_bytes()
    first.write_bytes(second.read_bytes())
    assert add_metrics(store, store.records(), ["ksd"], tell=lines.append) == (1, 1)
    assert "other parameters than the record's" in lines[0] and "ksd" in lines[1]
    first.write_bytes(b"not safetensors")
    assert add_metrics(store, store.records(), ["sliced_w1"], tell=lines.append) == (1, 1)
    assert "is damaged" in lines[2]
    first.write_bytes(whole)
    second.unlink()
    assert add_metrics(store, store.records(), ["js_hist"], tell=lines.append) == (1, 1)


def test_a_record_of_a_plugin_that_is_not_loaded_is_passed_over(store):
    first, second = store.records()
    lines: list[str] = []
    assert add_metrics(store, [first | {"method": "isotropic"}, second], ["sliced_w1"], tell=lines.append) == (1, 0)
    assert "the method 'isotropic' is not registered" in lines[0] and "sliced_w1" in lines[1]


def test_a_sampler_without_parameters_needs_none_to_be_measured_again(tmp_path):
    pytest.importorskip("diffusers")
    solver = ["method=solver_ddim", "target=moons", "eval.metrics=[nfe]", "seeds=1"]
    execute(compose([*solver, f"paths.results={tmp_path}"]))
    store = Store(tmp_path)
    for path in store.parameters.glob("*"):  # as in a fresh clone
        path.unlink()
    assert add_metrics(store, store.records(), ["sliced_w2"], tell=lambda line: None) == (1, 0)


def test_only_finished_runs_lack_metrics(store):
    record = next(iter(store.records()))
    assert missing(record, ["mmd", "ksd"]) == ["ksd"]
    assert "js_grid" in missing(record, [])
    assert missing({**record, "status": "diverged"}, ["ksd"]) == []


def test_an_option_added_later_keeps_the_id_at_its_old_meaning(monkeypatch):
    cls = get("method", "sivi").obj
    before = compose(RUN)
    monkeypatch.setattr(cls, "added", {"decay": before.method["decay"]}, raising=False)
    monkeypatch.setattr(get("target", "banana").obj, "added", {}, raising=False)
    after = compose(RUN)
    assert "decay" not in after.identity["method"] and after.config_id != before.config_id
    assert compose([*RUN, "method.decay=0.5"]).identity["method"]["decay"] == 0.5
    record = {"run_id": "x-s0", "seed": 0, "config": json.loads(json.dumps(after.identity))}
    assert Config.of_record(record, "results").config_id == after.config_id


def test_a_record_of_another_version_is_passed_over(store, monkeypatch):
    monkeypatch.setattr(get("target", "banana").obj, "version", 99)
    lines: list[str] = []
    assert add_metrics(store, store.records(), ["ksd"], tell=lines.append) == (0, 0)
    assert len(lines) == 2 and all("made with version 1" in line and "run it again" in line for line in lines)


def test_what_another_process_adds_meanwhile_is_kept(store):
    before = list(store.records())
    add_metrics(store, store.records(), ["sliced_w1"], tell=lambda line: None)
    assert add_metrics(store, before, ["sliced_w2"], tell=lambda line: None) == (2, 0)
    assert all({"mmd", "sliced_w1", "sliced_w2"} <= record["metrics"].keys() for record in store.records())


def test_a_record_that_another_process_works_on_is_left_to_it(store):
    lines: list[str] = []
    with claims.claim(store.claims, [before["run_id"] for before in store.records()][:1]):
        assert add_metrics(store, store.records(), ["sliced_w2"], tell=lines.append) == (1, 0)
    assert "another process works on it" in lines[0]


def test_arguments_added_later_keep_a_metrics_protocol():
    class Plain(Metric):
        def __init__(self, *, n: int = 3) -> None:
            self.n = n

    class Grown(Metric):
        added = {"order": 1}

        def __init__(self, *, n: int = 3, order: int = 1) -> None:
            self.n, self.order = n, order

    assert Plain().protocol_id() == Grown().protocol_id() != Grown(order=2).protocol_id()


def test_one_failing_metric_costs_only_itself(monkeypatch, tmp_path):
    def broken(self, q):
        raise ArithmeticError("singular")

    monkeypatch.setattr(get("metric", "mmd").obj, "__call__", broken)
    settings = [*RUN, *CHEAP, "eval.metrics=[mmd,sliced_w1]", "seeds=1", f"paths.results={tmp_path}"]
    (record,) = execute(compose(settings))
    assert record["status"] == "done" and "sliced_w1" in record["metrics"]
    assert record["skipped_metrics"] == {"mmd": "failed: ArithmeticError: singular"}


def test_what_gains_no_value_is_told_and_not_written(store, monkeypatch):
    before = {path: path.read_bytes() for path in store.files()}
    lines: list[str] = []
    assert add_metrics(store, store.records(), ["fd_digits"], tell=lines.append) == (0, 0)
    assert all("no value" in line for line in lines) and len(lines) == 2
    monkeypatch.setattr("bench.evaluate._build", lambda *_: _refuse())
    assert add_metrics(store, store.records(), ["sliced_w1"], tell=lines.append) == (0, 0)
    assert "passed over: no teacher here; make one" in lines[-1]
    assert {path: path.read_bytes() for path in store.files()} == before


def _refuse():
    raise UserError("no teacher here", "make one")
