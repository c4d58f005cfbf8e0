"""Damaged and inconsistent records: ``sivibench check`` names them, and nothing reads them as if they were sound."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from bench.cli import main
from bench.errors import UserError
from bench.record import read_record
from bench.shape import RECORD
from bench.store import Store
from processes import QUICK, bench


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A results folder with two real records."""
    results = tmp_path_factory.mktemp("sound")
    assert bench("run", *QUICK, results=results).returncode == 0
    return results


@pytest.fixture
def results(sound, tmp_path):
    """A copy of it."""
    return Path(shutil.copytree(sound, tmp_path / "results"))


def _truncate(path: Path, record: dict) -> None:
    path.write_text(path.read_text()[:-200])


def _copy(path: Path, record: dict) -> None:
    shutil.copy(path, path.with_name("0000000000-s0.json"))


def _edited(change):
    def damage(path: Path, record: dict) -> None:
        change(record)
        path.write_text(json.dumps(record))

    return damage


DAMAGE = {
    "truncated": (_truncate, "corrupt record"),
    "duplicated": (_copy, "is also in"),
    "other run id": (_edited(lambda r: r.update(run_id="0000000000-s0")), "file name does not match"),
    "other seed": (_edited(lambda r: r.update(seed=7)), "not to the ids stored"),
    "hyper-parameter edited": (_edited(lambda r: r["config"]["method"].update(lr=9.0)), "the configuration hashes to"),
    "method swapped": (_edited(lambda r: r["config"]["method"].update(name="ksivi")), "the configuration is not of"),
    "asked metrics edited": (_edited(lambda r: r["config"]["eval"].update(metrics=["ksd"])), "metric ksd is missing"),
    "protocol edited": (_edited(lambda r: next(iter(r["protocols"].values())).update(n=1)), "hashes to"),
    "metric of another protocol": (_edited(lambda r: r["metrics"]["gate"].update(protocol="0")), "not among"),
    "metric not a number": (_edited(lambda r: r["metrics"]["gate"].update(value="low")), "metrics.gate.value is str"),
    "NaN": (_edited(lambda r: r["metrics"]["gate"].update(value=float("nan"))), "NaN is not JSON"),
    "status edited": (_edited(lambda r: r.update(status="diverged")), "diverged_at is None"),
    "curve cut": (_edited(lambda r: r["curve"]["loss"]["q"]["step"].pop()), "19 steps and 20 values"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_check_names_the_damaged_record(name, results, capsys):
    damage, words = DAMAGE[name]
    path = Store(results).files()[0]
    damage(path, json.loads(path.read_text()))
    assert main(["check", "--results", str(results)]) == 1
    errors = [line for line in capsys.readouterr().out.splitlines() if line.startswith("error: ")]
    assert any(words in line and str(path) in line for line in errors), errors
    assert all("-s1.json" not in line for line in errors)


@pytest.mark.parametrize("key", RECORD)
def test_a_record_with_a_wrong_type_or_without_a_key_is_corrupt(key, results, tmp_path):
    record = json.loads(Store(results).files()[0].read_text())
    path = tmp_path / "record.json"
    for wrong in ([[1]], 1.5, {"x": []}):
        if (key, type(wrong)) in (("samples", list), ("env", dict)):  # what they contain is free
            continue
        path.write_text(json.dumps(record | {key: wrong}))
        with pytest.raises(UserError, match=f"corrupt record .*: {key}"):
            read_record(path)
    del record[key]
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match=f"corrupt record .*: it lacks {key}"):
        read_record(path)
