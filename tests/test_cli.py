"""The command line: exit codes, one message per mistake, JSON that parses."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import bench.cli.runs
from bench.cli import main
from bench.config import compose
from bench.run import execute
from bench.store import Store
from stubs import PAIR, fit_done, fit_raises, record_of

pytestmark = pytest.mark.usefixtures("stub_registry")

ROOT = Path(__file__).parents[1]


@pytest.fixture
def results(tmp_path):
    return str(tmp_path / "results")


@pytest.fixture
def engine(monkeypatch):
    """Puts a stub in place of the engine."""

    def use(fit):
        monkeypatch.setattr(bench.cli.runs, "execute", lambda config, **keys: execute(config, fit=fit, **keys))

    use(fit_done)
    return use


def test_run_is_idempotent_and_speaks_json(engine, results, capsys):
    arguments = ["run", *PAIR, "--results", results, "seeds=2", "--json"]  # overrides around options
    assert main(arguments) == 0
    first = json.loads(capsys.readouterr().out)
    assert [(r["seed"], r["status"]) for r in first] == [(0, "done"), (1, "done")]
    engine(fit_raises)
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out) == first
    assert main(["run", *PAIR, "--results", results]) == 0
    assert "stub_plain x stub_gauss  seed 0  done  stub 0.5" in capsys.readouterr().out


def test_run_says_first_what_it_fits_and_whose_settings_apply(engine, results, capsys, monkeypatch):
    def first(*overrides):
        assert main(["run", *overrides, "--results", results]) == 0
        headline, plan, *_ = capsys.readouterr().err.splitlines()
        assert headline[:12] == plan[:12] and "to fit" in plan
        return headline[12:]

    assert first(*PAIR) == "stub_plain x stub_gauss, the method's own defaults"
    monkeypatch.undo()  # the real registry
    engine(fit_done)
    small = ["seeds=1", "device=cpu"]
    assert first("method=sivi", *small) == "sivi x banana (the default target), settings of conf/tuned/sivi_banana.yaml"
    pair = ["method=sivi", "target=banana", *small]
    assert first(*pair, "tuned=none") == "sivi x banana, the method's own defaults"
    assert first(*pair, "tuned=sivi_x_shaped") == "sivi x banana, settings of conf/tuned/sivi_x_shaped.yaml"


def test_a_failed_run_exits_with_1_until_retried(engine, results, capsys):
    engine(fit_raises)
    assert main(["run", *PAIR, "--results", results]) == 1
    assert "ValueError: no luck" in capsys.readouterr().err
    engine(fit_done)
    assert main(["run", *PAIR, "--results", results]) == 1
    assert main(["run", *PAIR, "--results", results, "--retry"]) == 0


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["run", "method=nope"], "unknown method 'nope'"),
        (["run", "target=nope"], "unknown target 'nope'"),
        (["run", *PAIR, "method.nope=1"], "unknown key 'method.nope'"),
        (["run", *PAIR, "method.batch=x"], "wrong type"),
        (["run", *PAIR, "seeds=-1"], "seeds=-1"),
        (["run", *PAIR, "device=nope"], "unknown device"),
        (["sweep", "nope"], "unknown sweep 'nope'"),
        (["sweep", "demo", "--jobs", "0"], "--jobs 0"),
        (["status", "nope"], "unknown sweep"),
        (["show", "zzz"], "no run 'zzz'"),
        (["report", "--target", "nope"], "unknown target"),
        (["reference", "nope"], "unknown target"),
    ],
)
def test_mistakes_exit_with_2_and_one_message(arguments, word, results, capsys):
    assert main([*arguments, "--results", results]) == 2
    captured = capsys.readouterr()
    assert word in captured.err and captured.out == "" and "Traceback" not in captured.err
    assert not os.path.exists(results)


def test_a_file_in_place_of_the_results_folder(engine, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["run", *PAIR, "--results", str(tmp_path / "file")]) == 2
    assert "part of the path is a file" in capsys.readouterr().err
    # the pages of a report too, before it prints what it cannot write
    assert main(["report", "--results", str(tmp_path / "none"), "--out", str(tmp_path / "file")]) == 2
    captured = capsys.readouterr()
    assert "part of the path is a file" in captured.err and captured.out == ""


def test_a_full_disk_keeps_what_is_finished(engine, results, capsys, monkeypatch):
    assert main(["run", *PAIR, "--results", results]) == 0
    fsync = os.fsync

    def fills_up(handle):
        if "-s1." in os.readlink(f"/proc/self/fd/{handle}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return fsync(handle)

    if not Path("/proc/self/fd").exists():
        monkeypatch.setattr(os, "readlink", lambda path: "-s1.")
    monkeypatch.setattr(os, "fsync", fills_up)
    assert main(["run", *PAIR, "--results", results, "seeds=2"]) == 2
    assert "the disk is full" in capsys.readouterr().err
    monkeypatch.undo()
    assert [r["seed"] for r in Store(results).records()] == [0]


def test_status_show_check_and_a_corrupt_record(engine, results, capsys):
    main(["run", *PAIR, "--results", results, "seeds=2"])
    capsys.readouterr()
    assert main(["status", "--results", results, "--json"]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert (row["method"], row["target"], row["done"]) == ("stub_plain", "stub_gauss", 2)
    run_id = compose(PAIR).run_id(1)
    assert main(["show", run_id, "--results", results]) == 0
    assert "batch=10" in capsys.readouterr().out
    assert main(["show", run_id, "--results", results, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["run_id"] == run_id
    assert main(["check", "--results", results, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []

    path = Store(results).path(run_id, "stub_gauss", "stub_plain")
    path.write_text("{")
    for command in ("status", "report"):
        assert main([command, "--results", results]) == 1
        captured = capsys.readouterr()
        assert str(path) in captured.err and "stub_plain" in captured.out
    assert main(["check", "--results", results]) == 1
    assert "corrupt record" in capsys.readouterr().out


def test_status_of_a_sweep_counts_what_is_missing(results, tmp_path, capsys):
    (tmp_path / "s.yaml").write_text("overrides: [method=stub_plain target=stub_gauss seeds=3]\n")
    store = Store(results)
    store.put(record_of(compose([*PAIR, "seeds=3"]), 0))
    assert main(["status", str(tmp_path / "s.yaml"), "--results", results, "--json"]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert (row["done"], row["missing"]) == (1, 2)


def test_list(capsys):
    assert main(["list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in listed["methods"]] == ["stub_hungry", "stub_plain"]
    assert listed["methods"][1]["parameters"]["batch"] == {"type": "int", "default": 10}
    assert main(["list", "targets", "--verbose"]) == 0
    assert "scale: float = 1.0" in capsys.readouterr().out


def test_help_needs_no_torch():
    code = "import sys; from bench.cli.parser import make_parser; make_parser().format_help()"
    code += "; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_status_of_a_folder_needs_no_torch(engine, results):
    assert main(["run", *PAIR, "--results", results]) == 0
    code = f"import sys; from bench.cli import main; assert main(['status', '--results', {results!r}]) == 0"
    code += "; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_closed_pipe_is_no_traceback(results):
    code = "import sys, bench.cli; sys.exit(bench.cli.main())"
    done = subprocess.run(
        f"{sys.executable} -c '{code}' list --json | true; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, 141) and done.stderr == ""
