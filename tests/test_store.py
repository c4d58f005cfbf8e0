"""Records on disk: atomic writes, damaged files, consistency checks."""

from __future__ import annotations

import errno
import json
import os
import stat

import pytest

from bench import check, environment, registry
from bench.check import check_store
from bench.config import compose
from bench.errors import UserError
from bench.files import explain_os_error, write_json_atomic
from bench.metrics.base import Metric
from bench.record import new_record, read_record
from bench.store import Store
from methods.base import Method
from stubs import PAIR, Gauss, record_of

pytestmark = pytest.mark.usefixtures("stub_registry")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


def test_a_file_that_cannot_be_read_is_not_called_unwritable(tmp_path, monkeypatch):
    (path := tmp_path / "site.yaml").write_text("x")
    denied = OSError(errno.EACCES, "no")
    assert f"cannot write {path}" in str(explain_os_error(path, denied))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert f"cannot read {path}: no permission" in str(explain_os_error(path, denied))


def test_one_key_per_line_and_never_nan(tmp_path):
    path = tmp_path / "deep" / "x.json"
    write_json_atomic(path, {"a": 1, "b": {"c": [float("nan"), 2.0, float("inf")]}})
    assert path.read_text() == '{"a": 1,\n"b": {"c": [null, 2.0, null]}}\n'


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_files_are_as_readable_as_the_umask_lets_them(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        write_json_atomic(tmp_path / "x.json", {})
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(tmp_path / "x.json").st_mode) == mode


@pytest.mark.parametrize(
    ("code", "word"), [(errno.ENOSPC, "disk is full"), (errno.EACCES, "permission"), (errno.EROFS, "read-only")]
)
def test_a_failed_write_says_why_and_keeps_the_old_file(tmp_path, monkeypatch, code, word):
    path = tmp_path / "x.json"
    write_json_atomic(path, {"a": 1})

    def fail(handle):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match=word) as caught:
        write_json_atomic(path, {"a": 2})
    assert "finished runs are kept" in str(caught.value)
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_roundtrip_and_lookup(store):
    config = compose(PAIR)
    record = record_of(config, 0)
    path = store.put(record)
    assert path == store.runs / "stub_gauss" / "stub_plain" / f"{config.config_id}-s0.json"
    assert store.get(record["run_id"], "stub_gauss", "stub_plain") == record
    assert store.get(config.run_id(1), "stub_gauss", "stub_plain") is None
    store.put(record_of(config, 1))
    assert [r["seed"] for r in store.records()] == [0, 1]
    assert store.find(f"{config.config_id}-s1")["seed"] == 1
    with pytest.raises(UserError, match="2 runs start with"):
        store.find(config.config_id)
    with pytest.raises(UserError, match="no run 'zzz'"):
        store.find("zzz")


def test_a_corrupt_record_is_named_and_the_rest_still_loads(store):
    config = compose(PAIR)
    store.put(record_of(config, 0))
    bad = store.put(record_of(config, 1))
    bad.write_text('{"schema": 1,')
    with pytest.raises(UserError, match=str(bad)):
        read_record(bad)
    records, unreadable = store.load()
    assert [r["seed"] for r in records] == [0]
    assert len(unreadable) == 1 and str(bad) in str(unreadable[0])


def test_an_unwritable_results_folder_is_noticed_first(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="part of the path is a file"):
            Store(place).writable()
    Store(tmp_path / "fine").writable()
    assert list((tmp_path / "fine" / "runs").iterdir()) == []


def test_new_record_refuses_what_is_not_documented():
    config = compose(PAIR)
    with pytest.raises(ValueError, match="unknown status"):
        new_record(config, 0, "great", env={})
    with pytest.raises(ValueError, match="unknown record fields: metric"):
        new_record(config, 0, "done", env={}, metric={})


def test_check_finds_nothing_in_a_sound_store(store):
    for seed in range(3):
        store.put(record_of(compose(PAIR), seed))
    assert check_store(store) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r.update(schema=99), "schema 99"),
        (lambda r: r["config"]["train"].update(iterations=1), "the configuration hashes to"),
        (lambda r: r.update(run_id="other-s0"), "file name does not match"),
        (lambda r: r.update(method="stub_hungry"), "the folder does not match"),
        (lambda r: r.update(metrics={}), "without any metric"),
        (lambda r: r.update(protocols={}), "not among the record's protocols"),
        (lambda r: next(iter(r["protocols"].values())).update(version=2), "hashes to"),
        (lambda r: r["env"].update(dirty=True), "uncommitted changes"),
        (lambda r: r.update(status="great"), "unknown status"),
    ],
)
def test_check_names_each_problem(store, change, words):
    record = json.loads(json.dumps(record_of(compose(PAIR), 0)))
    path = store.path(record["run_id"], record["target"], record["method"])
    change(record)
    write_json_atomic(path, record)
    problems = check_store(store)
    assert any(words in problem.message and problem.path == str(path) for problem in problems), problems


@pytest.mark.parametrize("broken", [None, "build_method", "of_record"])
def test_check_misses_no_metric_that_cannot_be_had(store, monkeypatch, broken):
    """Also where the run cannot be built here, for want of a teacher; what only an object can tell is then unknown."""

    def lacking(*arguments):
        raise UserError("no teacher here")

    class OfClass(Metric):
        """Asks the class of the method."""

        def applies(self, method, target):
            return None if type(method).nll_bound is not Method.nll_bound else "no bound"

    class OfObject(Metric):
        """Asks the method itself."""

        def applies(self, method, target):
            return "too many" if method.batch > 5 else None

    class Always(Metric):
        """Asks nobody."""

    for name, metric in {"of_class": OfClass, "of_object": OfObject, "always": Always}.items():
        registry.register("metric", name, source="test")(metric)
    monkeypatch.setattr(Gauss, "metrics", ("stub", "of_class", "of_object", "always"))
    if broken == "build_method":
        monkeypatch.setattr(check, "build_method", lacking)
    elif broken:
        monkeypatch.setattr(check.Config, "of_record", lacking)
    for seed in range(2):
        store.put(record_of(compose(PAIR), seed))
    found = [problem.message.split(";")[0] for problem in check_store(store)]
    missing = (
        ["metric always is missing"] if broken is None else ["metric of_object is missing", "metric always is missing"]
    )
    assert found == missing * 2


def test_check_looks_beyond_single_records(store):
    config = compose(PAIR)
    first, second = record_of(config, 0), record_of(config, 1)
    first["env"] |= {"git": "abc", "source": "one"}
    second["env"] |= {"git": "abc", "source": "two"}
    store.put(first)
    path = store.put(second)
    copy = path.parent.parent / "elsewhere" / path.name
    copy.parent.mkdir()
    copy.write_text(path.read_text())
    (path.parent / ".x.json.123.tmp").write_text("")
    (path.parent / "broken.json").write_text("[]")
    messages = " | ".join(map(str, check_store(store)))
    for words in ("is also in", "differing package files", "interrupted write", "corrupt record"):
        assert words in messages


@pytest.mark.parametrize(("shallow", "found"), [("false", True), ("true", False)])
def test_check_tells_of_commits_that_the_repository_lacks(store, monkeypatch, shallow, found):
    answers = {"--show-toplevel": str(environment.ROOT), "--is-shallow-repository": shallow, "known^{commit}": ""}
    monkeypatch.setattr(environment, "_git", lambda *arguments: answers.get(arguments[-1]))
    for seed, sha in enumerate(("known", "rebased")):
        record = record_of(compose(PAIR), seed)
        record["env"] |= {"git": sha, "source": sha}
        store.put(record)
    messages = [problem.message for problem in check_store(store)]
    assert [message.split(" (")[0] for message in messages] == ["commit rebased is not in this repository"] * found
