"""Mistakes and damage through the real command line and the real engine: one message, nothing lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from bench.cli import main
from bench.errors import UserError
from bench.record import read_record
from bench.shape import RECORD
from bench.store import Store
from processes import SMALL, Done, bench, leftovers, outcome, start

RUN = ["run", "method=meanfield", "method.batch=20", *SMALL, "train.iterations=20", "eval.metrics=[gate]", "seeds=2"]


def one_message(done: Done, *words: str) -> None:
    """Exit code 2 and one message that contains ``words``."""
    assert done.returncode == 2, done
    assert done.stdout == "" and done.stderr.count("sivibench: ") == 1 and "Traceback" not in done.stderr, done
    for word in words:
        assert word in done.stderr


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A results folder with two real records."""
    results = tmp_path_factory.mktemp("sound")
    assert bench(*RUN, results=results).returncode == 0
    return results


@pytest.fixture
def results(sound, tmp_path):
    """A copy of it."""
    return Path(shutil.copytree(sound, tmp_path / "results"))


def test_a_mistake_in_a_fresh_interpreter(tmp_path):
    """The other mistakes are in test_config.py and test_cli.py, without the second it takes to start."""
    done = bench("run", "method=ksivy", "target=banana", results=tmp_path / "none", fresh=True)
    one_message(done, "unknown method 'ksivy'", "did you mean 'ksivi'")
    assert not (tmp_path / "none").exists()


def test_missing_data_without_a_network(tmp_path):
    """A proxy that refuses connections stands for a compute node without internet."""
    nowhere = {"HTTPS_PROXY": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "NO_PROXY": "", "no_proxy": ""}
    cache = tmp_path / "cache"
    arguments = ["run", "method=meanfield", "target=blr_waveform", "device=cpu", "train.iterations=5"]
    done = bench(*arguments, results=tmp_path / "results", SIVIBENCH_CACHE=cache, **nowhere)
    one_message(done, "cannot get the data file blr/waveform.mat", "SIVIBENCH_DATA is not set", str(cache), "by hand")
    assert Store(tmp_path / "results").files() == [] and leftovers(tmp_path / "results") == []


@pytest.mark.parametrize("place", ["", "runs", "runs/banana", "artifacts", "artifacts/checkpoints"])
def test_a_file_in_place_of_a_folder(place, tmp_path):
    path = tmp_path / "results" / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    words = "Not a directory" if place == "artifacts/checkpoints" else "part of the path is a file"
    one_message(bench(*RUN, results=tmp_path / "results"), words, str(tmp_path / "results"))
    path.unlink()
    assert bench(*RUN, results=tmp_path / "results").returncode == 0
    assert len(outcome(tmp_path / "results")) == 2 and leftovers(tmp_path / "results") == []


def test_a_folder_without_write_permission(results):
    for folder in [results, *(path for path in results.rglob("*") if path.is_dir())]:
        folder.chmod(0o500)
    try:
        if os.access(results, os.W_OK):
            pytest.skip("root may write everywhere")
        one_message(bench(*RUN, "seeds=3", results=results), "no permission")
    finally:
        for folder in [results, *results.rglob("*")]:
            folder.chmod(0o700)
    assert len(outcome(results)) == 2


def test_commands_that_read_do_not_take_a_file_or_nothing_for_results(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for command in (["check"], ["status"], ["report"], ["show", "x"]):
        assert main([*command, "--results", str(tmp_path / "file")]) == 2
        assert "is a file, not a results folder" in capsys.readouterr().err
    assert main(["check", "--results", str(tmp_path / "mistyped")]) == 2
    assert "there is no results folder" in capsys.readouterr().err


def test_a_corrupt_record_stops_the_run_and_only_that(results):
    first, second = Store(results).files()
    kept = second.read_text()
    first.write_text(first.read_text()[:300])
    one_message(bench(*RUN, results=results), f"corrupt record {first}", "delete the file")
    assert second.read_text() == kept
    first.unlink()
    done = bench(*RUN, results=results)
    assert done.returncode == 0 and "1 reused, 0 running elsewhere, 1 to fit" in done.stderr
    assert second.read_text() == kept


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_a_corrupt_checkpoint_is_named_and_costs_no_record(damage, tmp_path):
    results = tmp_path / "results"
    assert bench(*RUN, results=results, TEST_AT="record 2 kill").returncode < 0
    [path] = results.glob("artifacts/checkpoints/*.pt")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # torch alone would not notice
    path.write_bytes(content if damage == "flip" else content[:-100])
    one_message(bench(*RUN, results=results), f"checkpoint {path} is corrupt", f"rm {path}")
    assert [record["seed"] for record in outcome(results)] == [0]
    path.unlink()
    assert bench(*RUN, results=results).returncode == 0
    assert [record["seed"] for record in outcome(results)] == [0, 1]


@pytest.mark.parametrize("where", ["checkpoint 1", "record 1", "record 2"])
def test_a_disk_that_fills_up_costs_nothing_but_the_wait(where, sound, tmp_path):
    results = tmp_path / "results"
    one_message(bench(*RUN, results=results, TEST_AT=f"{where} full"), "the disk is full", "finished runs are kept")
    assert len(outcome(results)) == (where == "record 2")
    assert all(path.suffix == ".pt" for path in leftovers(results))
    assert bench(*RUN, results=results).returncode == 0
    assert outcome(results) == outcome(sound) and leftovers(results) == []


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a file system is not permitted")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_is_really_full(small_disk):
    results = small_disk / "results"
    assert bench(*RUN, "seeds=1", results=results).returncode == 0
    large = [*RUN, "method=ksivi", "method.hidden=[400,400]"]
    one_message(bench(*large, results=results), "artifacts/checkpoints", "the disk is full")

    hold = small_disk.parent / "go"
    running = start(*RUN, results=results, TEST_HOLD=hold)
    _wait_for(results / "artifacts" / "checkpoints", "*.pt")
    _fill(small_disk / "rest")
    hold.touch()
    one_message(running.wait(), "-s1.json: the disk is full")
    one_message(bench(*RUN, results=results), "the disk is full")
    assert [record["seed"] for record in outcome(results)] == [0]

    (small_disk / "rest").unlink()
    assert bench(*RUN, results=results).returncode == 0
    assert [record["seed"] for record in outcome(results)] == [0, 1] and leftovers(results) == []


def _wait_for(folder: Path, pattern: str) -> None:
    deadline = time.monotonic() + 60
    while not list(folder.glob(pattern)) and time.monotonic() < deadline:
        time.sleep(0.02)


def _fill(path: Path) -> None:
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(512))
        except OSError:
            return


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
