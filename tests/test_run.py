"""``execute``: nothing twice, nothing lost."""

from __future__ import annotations

import errno
import json
from contextlib import suppress

import pytest

from bench import claims
from bench.claims import claim
from bench.config import build_method, build_target, compose
from bench.cost import fit_time
from bench.errors import RunFailed, UserError
from bench.fit.checkpoint import Checkpoint
from bench.run import execute
from bench.store import Store
from stubs import PAIR, Gauss, Plain, fit_done, fit_never, fit_raises, record_of
from targets.base import Unsupported

pytestmark = pytest.mark.usefixtures("stub_registry")


@pytest.fixture
def config(tmp_path):
    return compose([*PAIR, "seeds=3", f"paths.results={tmp_path}", "device=cpu"])


@pytest.fixture
def store(config):
    return Store(config.results)


def test_the_second_call_fits_nothing(config, store):
    first = execute(config, fit=fit_done)
    assert [(r["seed"], r["status"], r["cost"]["attempts"]) for r in first] == [(s, "done", 1) for s in range(3)]
    assert execute(config, fit=fit_never) == json.loads(json.dumps(first))
    assert list(store.claims.iterdir()) == []


def test_only_missing_seeds_are_fitted_and_they_are_fitted_together(config, store):
    store.put(record_of(config, 1))
    asked = []

    def fit(config, seeds, store):
        asked.append(list(seeds))
        return fit_done(config, seeds, store)

    messages = []
    execute(config, fit=fit, progress=messages.append)
    assert asked == [[0, 2]]
    assert messages == [
        f"{config.config_id}: 1 reused, 0 running elsewhere, 2 to fit",
        f"{config.config_id}: 2 fitted in 1.0 s",
    ]


def test_the_time_of_a_fit_in_words():
    assert fit_time({"seconds": 3.0, "curve_seconds": 1.0, "setup_seconds": 9.0}) == "4.0 s, 25 % of it curve points"
    assert fit_time({"seconds": 3.0, "curve_seconds": 0.0}) == fit_time({"seconds": 3.0}) == "3.0 s"
    assert fit_time({}) == ""


def test_failures_are_recorded_kept_and_retried(config, store):
    with pytest.raises(RunFailed, match="ValueError: no luck") as caught:
        execute(config, fit=fit_raises)
    records = list(store.records())
    assert [r["status"] for r in records] == ["failed"] * 3
    assert all("fit_raises" in r["error"] and "Traceback" in r["error"] for r in records)
    assert f"{config.config_id}-s2.json" in str(caught.value) and "--retry" in str(caught.value)
    assert [r["status"] for r in execute(config, fit=fit_never)] == ["failed"] * 3
    retried = execute(config, fit=fit_done, retry=True)
    assert [(r["status"], r["cost"]["attempts"]) for r in retried] == [("done", 2)] * 3


@pytest.mark.parametrize("fit", [fit_done, fit_raises])
@pytest.mark.parametrize(
    ("recorded", "saved", "expected"),
    [
        (1, None, 2),
        (1, {"attempts": [1, 2, 1]}, 3),  # failed once, and its retry was interrupted
        (None, {"attempts": [1, 3, 1]}, 4),
        (4, {"attempts": [1, 3, 1]}, 5),  # failed where it went on
        (None, {}, 2),  # by earlier code
    ],
)
def test_attempts_that_failed_and_that_were_interrupted_are_counted(config, store, fit, recorded, saved, expected):
    if recorded:
        store.put(record_of(config, 1, "failed") | {"cost": {"attempts": recorded}})
    if saved is not None:
        Checkpoint(store.artifacts / "checkpoints", config.config_id, config.seeds).save({}, **saved)
    with suppress(RunFailed):
        execute(config, fit=fit, retry=True)
    assert store.find(config.run_id(1))["cost"]["attempts"] == expected


@pytest.mark.parametrize("apart", ["large", "saved groups"])
def test_seeds_fitted_apart_are_done_although_one_fails(config, store, monkeypatch, apart):
    """Also when others of the same configuration were interrupted in groups of their own."""
    if apart == "large":
        monkeypatch.setattr(Plain, "large", True)
    else:
        for seed in config.seeds:
            Checkpoint(store.artifacts / "checkpoints", config.config_id, [seed]).save({})
    asked = []

    def fit(config, seeds, store):
        asked.append(list(seeds))
        return (fit_raises if 2 not in seeds else fit_done)(config, seeds, store)

    with pytest.raises(RunFailed, match="-s0" if apart == "large" else "-s[01]"):  # groups come in the order of files
        execute(config, fit=fit)
    assert sorted(asked) == [[0], [1], [2]]
    assert [(r["seed"], r["status"]) for r in store.records()] == [(0, "failed"), (1, "failed"), (2, "done")]
    assert list(store.claims.iterdir()) == []
    assert {path.name for path in (store.artifacts / "checkpoints").glob("*.pt")} == (
        set() if apart == "large" else {Checkpoint(store.root, config.config_id, [s]).path.name for s in (0, 1)}
    )


@pytest.mark.parametrize("status", ["diverged", "timeout"])
def test_diverged_and_timeout_are_kept_unless_retried(config, store, status):
    for seed in config.seeds:
        store.put(record_of(config, seed, status))
    assert {r["status"] for r in execute(config, fit=fit_never)} == {status}
    assert {r["status"] for r in execute(config, fit=fit_done, retry=True)} == {"done"}


def test_runs_of_others_are_left_alone(config, store):
    with claim(store.claims, [config.run_id(1)], {"method": "stub_plain"}):
        records = execute(config, fit=fit_done)
        assert [r["status"] for r in records] == ["done", "running", "done"]
        assert records[1]["claim"]["method"] == "stub_plain"
    assert [r["status"] for r in execute(config, fit=fit_done)] == ["done"] * 3


def test_a_run_finished_between_look_and_claim_is_not_repeated(config, store, monkeypatch):
    original = claims.claim

    def slow(*args, **kwargs):
        for seed in config.seeds:
            store.put(record_of(config, seed))
        return original(*args, **kwargs)

    monkeypatch.setattr(claims, "claim", slow)
    assert [r["status"] for r in execute(config, fit=fit_never)] == ["done"] * 3


@pytest.mark.parametrize(
    ("status", "until", "kept"),
    [
        ("done", {"until": "2026-01-02T00:00:00Z"}, False),  # of a process killed between its last record and its end
        ("diverged", {"until": "2026-01-02T00:00:00Z"}, False),
        ("diverged", {}, False),  # of earlier code
        ("diverged", {"until": "2026-01-02T00:00:01Z"}, True),  # of an interrupted retry
        ("failed", {"until": "2026-01-02T00:00:00Z"}, True),
    ],
)
def test_a_checkpoint_goes_only_with_records_that_came_after_it(config, store, status, until, kept):
    for seed in config.seeds:
        store.put(record_of(config, seed, status) | {"created": "2026-01-02T00:00:00Z"})
    checkpoint = Checkpoint(store.artifacts / "checkpoints", config.config_id, config.seeds[:2])
    checkpoint.save({}, **until)
    execute(config, fit=fit_never)
    assert checkpoint.path.exists() == kept


def test_a_checkpoint_of_a_run_under_way_elsewhere_is_kept(config, store):
    for seed in config.seeds[1:]:
        store.put(record_of(config, seed, "diverged"))
    checkpoint = Checkpoint(store.artifacts / "checkpoints", config.config_id, config.seeds[1:])
    checkpoint.save({}, until="2026-01-02T00:00:00Z")
    half = checkpoint.path.with_name(f".{checkpoint.path.name}.1.tmp")
    half.write_bytes(b"half")
    with claim(store.claims, [config.run_id(2)]):
        execute(config, fit=fit_done)
        assert checkpoint.path.exists() and half.exists()
    execute(config, fit=fit_never)
    assert not checkpoint.path.exists() and not half.exists()


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_an_interruption_writes_no_record_and_releases_the_claims(config, store, interruption):
    def fit(config, seeds, store):
        raise interruption

    with pytest.raises(interruption):
        execute(config, fit=fit)
    assert store.files() == [] and list(store.claims.iterdir()) == []


@pytest.mark.parametrize("stop", [KeyboardInterrupt, UserError("the data are gone"), ValueError("no luck")])
def test_seeds_evaluated_before_a_stop_are_kept(config, store, stop):
    """Evaluation may take longer than the fit: each seed's record is written as it comes."""

    def fit(config, seeds, store):
        yield record_of(config, 0)
        raise stop

    with pytest.raises(RunFailed if isinstance(stop, ValueError) else stop if isinstance(stop, type) else UserError):
        execute(config, fit=fit)
    rest = [(1, "failed"), (2, "failed")] if isinstance(stop, ValueError) else []
    assert [(r["seed"], r["status"]) for r in store.records()] == [(0, "done"), *rest]
    assert [r["status"] for r in execute(config, fit=fit_done, retry=True)] == ["done"] * 3


@pytest.mark.parametrize("error", [UserError("cannot write: the disk is full"), OSError(errno.ENOSPC, "No space")])
def test_a_full_disk_writes_no_failed_record(config, store, error):
    store.put(record_of(config, 0))

    def fit(config, seeds, store):
        raise error

    with pytest.raises(UserError, match="the disk is full"):
        execute(config, fit=fit)
    assert [r["seed"] for r in store.records()] == [0]


def test_seeds_written_before_the_disk_filled_are_kept(config, store, monkeypatch):
    put = Store.put

    def fills_up(self, record):
        if record["seed"] == 1:
            raise UserError("cannot write: the disk is full")
        return put(self, record)

    monkeypatch.setattr(Store, "put", fills_up)
    with pytest.raises(UserError, match="disk is full"):
        execute(config, fit=fit_done)
    monkeypatch.undo()
    assert [r["seed"] for r in store.records()] == [0]


def test_an_unwritable_results_folder_is_noticed_before_the_fit(tmp_path):
    (tmp_path / "file").write_text("")
    config = compose([*PAIR, f"paths.results={tmp_path / 'file'}"])
    with pytest.raises(UserError, match="part of the path is a file"):
        execute(config, fit=fit_never)


def test_a_missing_device_is_noticed_before_the_fit(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    config = compose([*PAIR, f"paths.results={tmp_path}", "device=cuda:1"])
    with pytest.raises(UserError, match="device=cuda:1 is not available: this machine has 0 CUDA devices"):
        execute(config, fit=fit_never)


def test_a_corrupt_record_is_named(config, store):
    path = store.put(record_of(config, 0))
    path.write_text("{")
    with pytest.raises(UserError, match=str(path)):
        execute(config, fit=fit_never)


def test_an_engine_that_forgets_a_seed_is_an_error(config):
    with pytest.raises(RuntimeError, match=r"seeds \[0\] instead of \[0, 1, 2\]"):
        execute(config, fit=lambda config, seeds, store: [record_of(config, 0)])


@pytest.mark.parametrize("reason", ["needs", "constructor", "data"])
def test_an_impossible_pair_is_refused_before_the_plan_is_told(config, store, monkeypatch, reason):
    def refuse(error):
        def init(self, *args, **keys):
            raise error

        return init

    words = {"needs": "needs noised", "constructor": "'stub_plain' cannot be built for .*: too few", "data": "not here"}
    if reason == "needs":
        config = compose(["method=stub_hungry", "target=stub_gauss", f"paths.results={store.root}", "device=cpu"])
    elif reason == "constructor":
        monkeypatch.setattr(Plain, "__init__", refuse(Unsupported("too few draws")))
    else:
        monkeypatch.setattr(Gauss, "__init__", refuse(UserError("the data are not here")))
    messages = []
    with pytest.raises(UserError, match=words[reason]) as caught:
        execute(config, fit=fit_never, progress=messages.append)
    assert not isinstance(caught.value, RunFailed)
    assert messages == [] and store.files() == [] and list(store.claims.iterdir()) == []


def test_another_error_of_a_constructor_is_a_failed_run(config, store, monkeypatch):
    def init(self, target, **keys):
        raise ValueError("no luck")

    def fit(config, seeds, store):
        build_method(config, build_target(config))

    monkeypatch.setattr(Plain, "__init__", init)
    with pytest.raises(RunFailed, match="ValueError: no luck"):
        execute(config, fit=fit)
    [record, *_] = store.records()
    assert record["status"] == "failed" and record["error"].count("Traceback") == 1


@pytest.mark.parametrize(
    ("metrics", "reduce", "said"),
    [(("js_gird",), True, "unknown metric 'js_gird'"), ((), False, "has shape \\[2, 2\\]")],
)
def test_a_target_that_cannot_be_right_is_refused_before_the_fit(monkeypatch, config, metrics, reduce, said):
    monkeypatch.setattr(Gauss, "metrics", metrics)
    if not reduce:
        monkeypatch.setattr(Gauss, "log_prob", lambda self, x: -x.square())
    with pytest.raises(UserError, match=said):
        execute(config, fit=fit_never)
