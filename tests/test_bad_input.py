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
from bench.store import Store
from processes import QUICK, Done, bench, leftovers, outcome, start

RUN = ["run", *QUICK]


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


OFFLINE = {"HTTPS_PROXY": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "NO_PROXY": "", "no_proxy": ""}
"""A proxy that refuses connections stands for a compute node without internet."""


def test_missing_data_without_a_network(tmp_path):
    cache = tmp_path / "cache"
    arguments = ["run", "method=meanfield", "target=blr_waveform", "device=cpu", "train.iterations=5"]
    done = bench(*arguments, results=tmp_path / "results", SIVIBENCH_CACHE=cache, **OFFLINE)
    one_message(done, "cannot get the data file blr/waveform.mat", "SIVIBENCH_DATA is not set", str(cache), "by hand")
    assert Store(tmp_path / "results").files() == [] and leftovers(tmp_path / "results") == []


@pytest.mark.slow
def test_a_sweep_does_what_it_can_without_the_data_of_one_target(tmp_path):
    results, sweep = tmp_path / "results", tmp_path / "two.yaml"
    line = "method=meanfield target=banana,blr_waveform seeds=2 device=cpu train.iterations=20 eval.curve_points=0"
    sweep.write_text(f"overrides:\n  - {line} eval.metrics=[ksd]\n")
    offline = OFFLINE | {"SIVIBENCH_CACHE": str(tmp_path / "cache")}
    done = bench("sweep", sweep, "--jobs", 1, results=results, fresh=True, **offline)
    assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr
    assert "cannot get the data file blr/waveform.mat" in done.stdout
    assert [record["target"] for record in outcome(results)] == ["banana"] * 2
    status = json.loads(bench("status", sweep, "--json", results=results, **offline).stdout)
    assert [(row["target"], row["done"], row["missing"]) for row in status] == [
        ("banana", 2, 0),
        ("blr_waveform", 0, 2),
    ]


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
    for command in (["check"], ["status"], ["report"], ["report", "diffusion"], ["evaluate"], ["wandb", "sync"],
                    ["wandb", "push"], ["evaluate", "mmd", "--target", "banana"]):  # fmt: skip
        assert main([*command, "--results", str(tmp_path / "mistyped")]) == 2
        captured = capsys.readouterr()
        assert "there is no results folder" in captured.err and captured.out == ""
    assert not (tmp_path / "mistyped").exists()


@pytest.mark.parametrize(
    "command",
    [
        ["evaluate", "--target", "nosuch"],
        ["evaluate", "--method", "nosuch"],
        ["evaluate", "--target", "banana", "--method", "nosuch"],
        ["wandb", "push", "--target", "nosuch"],
        ["wandb", "push", "--method", "nosuch"],
        ["report", "--target", "nosuch"],
        ["report", "diffusion", "--target", "nosuch"],
    ],
)
def test_a_name_that_nothing_has_is_no_filter(command, sound, capsys):
    kept = outcome(sound)
    assert main([*command, "--results", str(sound)]) == 2
    captured = capsys.readouterr()
    assert f"unknown {command[-2][2:]} 'nosuch'" in captured.err and captured.out == ""
    assert outcome(sound) == kept


def test_a_name_on_record_is_a_filter_though_nothing_of_the_name_is_registered(results, capsys):
    path = next(iter(Store(results).files()))
    other = results / "runs" / "of_a_plugin" / path.parent.name / path.name
    other.parent.mkdir(parents=True)
    other.write_text(path.read_text().replace('"target": "banana"', '"target": "of_a_plugin"', 1))
    assert main(["evaluate", "--target", "of_a_plugin", "--results", str(results)]) == 0
    assert "0 records added to" in capsys.readouterr().out


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
    one_message(running.wait(), "-s1.", ": the disk is full")  # its parameters or its record: a few pages decide
    one_message(bench(*RUN, results=results), "the disk is full")
    assert [record["seed"] for record in outcome(results)] == [0]

    (small_disk / "rest").unlink()
    assert bench(*RUN, results=results).returncode == 0
    assert [record["seed"] for record in outcome(results)] == [0, 1] and leftovers(results) == []


def _wait_for(folder: Path, pattern: str) -> None:
    deadline = time.monotonic() + 300
    while not list(folder.glob(pattern)) and time.monotonic() < deadline:
        time.sleep(0.02)


def _fill(path: Path) -> None:
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(512))
        except OSError:
            return
