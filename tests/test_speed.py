"""The speed command: a plain step for every method, its table, and peak memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from bench.config import compose
from bench.device import peak_bytes
from bench.errors import UserError
from bench.fit.members import initialise
from bench.noise import DirectNoise, generator
from bench.registry import entries
from bench.run import execute
from bench.speed import cells, command
from bench.speed.plain import baselines, plain_step
from bench.speed.render import markdown
from methods.base import Clock
from methods.baselines.ksivi import discrepancy
from methods.parts.stein import stein_discrepancy
from methods.sivism import SIVISM
from toy_gaussian import Gaussian

# Methods for networks on images have a command of their own (tests/test_speed_full_size.py).
METHODS = sorted(
    name
    for name, entry in entries("method").items()
    if getattr(entry.obj, "trained", True) and "images" not in entry.obj.needs
)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_plain_step_that_moves_it(name):
    cls = entries("method")[name].obj
    (method,) = initialise(lambda: cls(Gaussian(), **cls.cheap), [0])
    before = {n: p.detach().clone() for n, p in method.named_parameters() if p.requires_grad}
    step = plain_step(method, 1000)
    for _ in range(2):
        step()
    after = dict(method.named_parameters())
    assert all(torch.isfinite(after[n]).all() for n in before)
    assert any(not torch.equal(after[n], p) for n, p in before.items())


def test_other_commands_do_not_read_the_baselines():
    look = (
        "import sys; from bench.registry import entries; entries('method');"
        "print([name for name in sys.modules if '.baselines.' in name], list(entries('baseline')))"
    )
    assert subprocess.check_output([sys.executable, "-c", look], text=True) == "[] []\n"
    assert {"ksivi", "pvi", "blr_waveform"} <= set(baselines())


@pytest.mark.parametrize("kernel", ["gaussian", "imq", "laplace", "riesz"])
def test_plain_discrepancy_equals_the_suites_with_its_gradients(kernel):
    stream = DirectNoise(generator("plain"), dtype=torch.float64)
    points = [stream.normal(12, 3).requires_grad_() for _ in range(4)]
    for bandwidth in ("exact", "detached"):
        plain = discrepancy(*points, kernel, bandwidth)
        ours = stein_discrepancy(*points, kernel=kernel, bandwidth=bandwidth)
        torch.testing.assert_close(plain, ours)
        for a, b in zip(torch.autograd.grad(plain, points), torch.autograd.grad(ours, points), strict=True):
            torch.testing.assert_close(a, b)


def test_the_baseline_of_the_u_statistic_is_the_methods_own_loss():
    method = entries("method")["ksivi"].obj(Gaussian(), batch=12, statistic="ustat")
    (player,) = method.players()
    clock = Clock(torch.zeros(()), 10)
    theirs = baselines()["ksivi"].obj(method, player, DirectNoise(generator(1)), clock)
    torch.testing.assert_close(player.loss(DirectNoise(generator(1)), clock), theirs)


def test_the_layered_baseline_is_the_methods_own_objective():
    method = entries("method")["hksivi"].obj(Gaussian(), batch=16, layers=2, hidden=(8,))
    clock = Clock(torch.zeros(()), 10)
    (player,) = method.players()
    theirs = baselines()["hksivi"].obj(method, player, DirectNoise(generator(1)), clock)
    torch.testing.assert_close(player.loss(DirectNoise(generator(1)), clock), theirs)


def test_all_methods_are_paired_with_a_target_they_are_tuned_for_or_fit():
    found = dict(cells.every_method(["banana"]))
    assert set(METHODS) <= set(found)
    assert found["ksivi"] == "banana" and found["pvi"] == "banana_pvi" and found["meanfield"] == "banana"


def test_a_method_whose_tuned_target_lacks_its_files_is_timed_elsewhere(monkeypatch):
    monkeypatch.setattr(cells, "_fits", lambda method, target: target != "digits")  # no trained teacher here
    found = list(cells._candidates("cosim", ["moons"]))  # tuned for the digits only
    assert found[0] == "moons" and "digits" not in found


def test_table_is_written_cell_by_cell_and_continued(tmp_path, monkeypatch, capsys):
    output, text = tmp_path / "speed.json", tmp_path / "speed.md"

    def speed(method: str, *more: str) -> None:
        parser = command.argparse.ArgumentParser()
        command.add_arguments(parser)
        small = ["--target", "banana", "--seeds", "1,2", "--modes", "eager", "--rounds", "2", "--seconds", "0.001"]
        arguments = ["--method", method, *small, "--output", str(output), "--markdown", str(text), *more]
        assert command.main(parser.parse_args(arguments)) == 0

    speed("meanfield", "--memory")
    first = json.loads(output.read_text())["rows"]
    assert [(row["mode"], row["seeds"]) for row in first] == [("plain", 1), ("eager", 1), ("eager", 2)]
    assert first[0]["times_faster_than_plain"] == 1 and all(row["ms_per_seed_iteration"] > 0 for row in first)
    assert first[0]["peak_bytes"] is None and 50e6 < first[1]["peak_bytes"] < 4e9
    speed("meanfield,bam", "--memory")
    table = json.loads(output.read_text())
    rows = table["rows"]
    assert rows[:3] == first and {row["method"] for row in rows[3:]} == {"bam"}
    assert text.read_text() == markdown(table) and "| meanfield × banana | 2, eager |" in text.read_text()
    for more in (["--memory", "method.batch=5"], [], ["--memory", "--rounds", "3"], ["--memory", "--seeds", "1"]):
        with pytest.raises(UserError, match="other overrides or other settings"):
            speed("meanfield", *more)
    assert json.loads(output.read_text()) == table
    from bench.cli import main

    assert main(["speed", "--draws", "5", "--method", "meanfield", "--target", "banana", "--output", str(output)]) == 2
    assert "holds no times of draws" in capsys.readouterr().err and json.loads(output.read_text()) == table


def test_peak_memory_is_felt():
    before = peak_bytes(torch.device("cpu"))
    held = torch.ones(2 * 10**7)
    assert peak_bytes(torch.device("cpu")) >= before and float(held[-1]) == 1
    assert before > 20e6


def test_draws_are_timed_and_their_evaluations_counted(tmp_path):
    from bench.cli import main

    output = tmp_path / "draws.json"
    names = ["--method", "solver_ddim,hsivi_diffusion", "--target", "moons", "--rounds", "2", "--draws", "50"]
    assert main(["speed", *names, "--output", str(output), "method.nfe=3", "tuned=none"]) == 0
    rows = json.loads(output.read_text())["rows"]
    assert [row["method"] for row in rows] == ["solver_ddim", "hsivi_diffusion"]
    assert all(row["nfe"] == 3 and 0 < row["range"][0] <= row["seconds"] <= row["range"][1] for row in rows)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff", b"[]", b"3", b"{}", b'{"rows": []}',
     b'{"hardware": "", "env": {}, "overrides": [], "rows": []}',
     b'{"hardware": "", "env": {"source": ""}, "overrides": [], "rows": [{"method": "a", "target": "b", "nfe": 3}]}'],
)  # fmt: skip
def test_a_file_of_another_kind_is_not_continued(content, tmp_path, capsys):
    from bench.cli import main

    output = tmp_path / "other.json"
    output.write_bytes(content)
    assert main(["speed", "--method", "meanfield", "--target", "banana", "--output", str(output)]) == 2
    captured = capsys.readouterr()
    assert "holds no times" in captured.err and "name another file" in captured.err and captured.out == ""
    assert output.read_bytes() == content


@pytest.mark.parametrize("option", ["--output", "--markdown"])
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_measured(option, tmp_path, capsys):
    from bench.cli import main

    for more in ([], ["--draws", "5"]):
        assert main(["speed", "--method", "meanfield", "--target", "banana", option, str(tmp_path), *more]) == 2
        captured = capsys.readouterr()
        assert "it is a folder" in captured.err and captured.out == ""


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--method", "solver_ddim", "--target", "moons"], "solver_ddim has no training steps"),
        (["--draws", "5", "--memory"], "--memory is about training steps"),
        (["--draws", "5", "--seeds", "3"], "--seeds is about training steps"),
    ],
)
def test_training_steps_and_draws_are_not_mixed_up(given, words, capsys):
    from bench.cli import main

    assert main(["speed", *given]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--rounds", "--seconds", "--threads", "--draws"])
def test_what_must_be_positive_is(option, capsys):
    from bench.cli import main

    assert main(["speed", "--method", "sivi", "--target", "banana", option, "0"]) == 2
    assert "is not positive" in capsys.readouterr().err


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak cannot be reset here")
def test_the_peak_of_a_run_is_not_that_of_the_process_before_it(tmp_path):
    float(torch.ones(10**8).sum())
    before = peak_bytes(torch.device("cpu"))
    quick = ["train.iterations=1", "eval.metrics=[]", "eval.curve_points=0", "device=cpu", f"paths.results={tmp_path}"]
    (record,) = execute(compose(["method=meanfield", "target=banana", "seeds=1", *quick]))
    assert 50e6 < record["cost"]["peak_bytes"] < before - 1e8


def test_the_plain_step_uses_none_of_the_native_passes(monkeypatch):
    """What a method's own loss would take of them, it computes by torch."""
    monkeypatch.setattr("methods.native.relu_mlp.forward", lambda *_: pytest.fail("a C++ pass in the plain step"))
    plain_step(SIVISM(Gaussian(), batch=16), 1000)()
