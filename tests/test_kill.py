"""Runs that are killed, doubled or driven to NaN, through the real command line and the real engine."""

from __future__ import annotations

import os
import re
import signal
import time

import pytest
import torch

from bench.check import check_store
from bench.fit.checkpoint import saved_groups
from bench.registry import entries
from bench.store import Store
from processes import SMALL, bench, leftovers, outcome, start

PLAYERS = {"meanfield": ["method.batch=20"], "sivism": ["method.batch=20", "method.critic=[32]"]}
"""One player, two players."""

MOMENTS = {
    "checkpoint 1": 0,  # nothing but half a checkpoint is on the disk
    "checkpoint 178": 0,  # the one before it, at step 256, holds unfinished sums of losses and starts a block of noise
    "metric 2": 1,  # the fit is over, one of three seeds is evaluated, and that is kept
    "record 2": 1,  # another one is written, the next is not
}
"""When a run is killed, and how many records it has written by then."""


def _small(name: str) -> list[str]:
    parameters = entries("method")[name].parameters
    return [f"method.{key}=20" for key in ("batch", "outer", "auxiliary") if key in parameters]


def _killed(arguments: list[str], moment: str, results, **how) -> None:
    every = 0 if moment.startswith("checkpoint") else 60
    store = Store(results)
    before = len(store.files())
    done = bench("run", *arguments, f"checkpoint_seconds={every}", results=results, TEST_AT=f"{moment} kill", **how)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(store.files()) - before == MOMENTS[moment]
    if moment == "checkpoint 178":
        [path] = store.artifacts.glob("checkpoints/*.pt")
        [group] = saved_groups(path.parent, path.stem.partition("-")[0])
        assert int(group.load(torch.device("cpu"))["state"]["step"]) == 256
    assert [problem for problem in check_store(store) if problem.level == "error"] == []


def _completed(arguments: list[str], results, **how) -> None:
    done = bench("run", *arguments, results=results, **how)
    assert done.returncode == 0, done.stderr
    assert leftovers(results) == []
    assert [problem for problem in check_store(Store(results)) if "uncommitted" not in problem.message] == []


@pytest.mark.parametrize("name", PLAYERS)
def test_a_run_killed_at_every_moment_ends_like_an_undisturbed_one(name, tmp_path):
    arguments = [f"method={name}", *PLAYERS[name], *SMALL]
    _completed(arguments, tmp_path / "undisturbed")
    for moment in MOMENTS:
        _killed(arguments, moment, tmp_path / "killed")
    _completed(arguments, tmp_path / "killed")
    expected = outcome(tmp_path / "undisturbed")
    assert [(r["seed"], r["status"], len(r["curve"]["metrics"]["js_grid"]["step"])) for r in expected] == [
        (seed, "done", 2) for seed in range(3)
    ]
    assert outcome(tmp_path / "killed") == expected
    # Four kills: nothing was saved before the first; seed 0 was recorded before the third, seed 1 before the last.
    assert [r["cost"]["attempts"] for r in Store(tmp_path / "killed").records()] == [2, 3, 4]


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("name", sorted(n for n, e in entries("method").items() if getattr(e.obj, "trained", True)))
def test_one_kill_of_each_method_at_each_moment(name, moment, tmp_path):
    arguments = [f"method={name}", *_small(name), *SMALL]
    _completed(arguments, tmp_path / "undisturbed", fresh=True)
    _killed(arguments, moment, tmp_path / "killed", fresh=True)
    _completed(arguments, tmp_path / "killed", fresh=True)
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "undisturbed")


def test_more_seeds_after_a_kill(tmp_path):
    """The killed group goes on as it was, the new seeds form a group of their own."""
    arguments = ["method=meanfield", *PLAYERS["meanfield"], *SMALL]
    _completed(arguments, tmp_path / "three")
    _killed(arguments, "checkpoint 178", tmp_path / "five")
    _completed([*arguments, "seeds=5"], tmp_path / "five")
    five = outcome(tmp_path / "five")
    assert five[:3] == outcome(tmp_path / "three")
    assert [(r["status"], r["cost"]["seeds_sharing"]) for r in five] == [("done", 3)] * 3 + [("done", 2)] * 2


@pytest.mark.parametrize("fresh", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_same_run_twice_at_once(fresh, tmp_path):
    """Whoever comes first, every seed is fitted once."""
    arguments = ["run", "method=meanfield", *PLAYERS["meanfield"], *SMALL]
    both = [start(*arguments, results=tmp_path, fresh=fresh) for _ in range(2)]
    done = [process.wait() for process in both]
    assert [d.returncode for d in done] == [0, 0], [d.stderr for d in done]
    assert sum(_to_fit(d.stderr) for d in done) == 3
    assert [(r["seed"], r["status"], r["cost"]["attempts"]) for r in Store(tmp_path).records()] == [
        (seed, "done", 1) for seed in range(3)
    ]
    assert leftovers(tmp_path) == []


def test_a_run_that_is_running_is_left_alone_until_its_process_is_killed(tmp_path):
    arguments = ["run", "method=meanfield", *PLAYERS["meanfield"], *SMALL]
    first = start(*arguments, results=tmp_path, TEST_HOLD=tmp_path / "never")
    try:
        claims = Store(tmp_path).claims
        deadline = time.monotonic() + 300
        while len(list(claims.glob("*.json"))) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        second = bench(*arguments, results=tmp_path)
        assert second.returncode == 0 and "0 reused, 3 running elsewhere, 0 to fit" in second.stderr
        assert second.stdout.count("running") == 3 and Store(tmp_path).files() == []
        status = bench("status", results=tmp_path)
        assert status.returncode == 0 and "meanfield x banana" in status.stdout
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
    check = bench("check", results=tmp_path)
    assert check.returncode == 0 and check.stdout.count("stale claim") == 3
    third = bench(*arguments, results=tmp_path)
    assert third.returncode == 0 and _to_fit(third.stderr) == 3
    assert {r["status"] for r in Store(tmp_path).records()} == {"done"}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_polite_end_releases_the_claims(number, code, tmp_path):
    process = start("run", "method=meanfield", *SMALL, results=tmp_path, TEST_HOLD=tmp_path / "never")
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("artifacts/checkpoints/*.pt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, number)
    done = process.wait()
    assert done.returncode == code and "Traceback" not in done.stderr
    assert [path.suffix for path in leftovers(tmp_path)] == [".pt"]


def _to_fit(stderr: str) -> int:
    found = re.search(r"(\d+) to fit", stderr)
    assert found is not None, stderr
    return int(found[1])


def test_a_seed_driven_to_nan_is_recorded_with_its_step_and_the_others_are_done(tmp_path):
    arguments = ["method=doomed", *SMALL, "seeds=4"]
    _completed(arguments, tmp_path)
    records = list(Store(tmp_path).records())
    died = [r for r in records if r["status"] == "diverged"]
    assert 0 < len(died) < 4 and {r["status"] for r in records} == {"done", "diverged"}
    for record in records:
        if record["status"] == "diverged":
            assert record["diverged_at"] == 40 and record["metrics"] == {} and record["samples"] is None
            losses = dict(zip(*record["curve"]["loss"]["q"].values(), strict=True))
            assert losses[39] is not None and losses[290] is None
        else:
            assert record["diverged_at"] is None and set(record["metrics"]) == {"marginal_mean_error", "gate"}
    # It is a result, which only --retry questions.
    again = bench("run", *arguments, results=tmp_path)
    assert again.returncode == 0 and _to_fit(again.stderr) == 0


def test_a_group_of_which_nobody_is_left_ends_the_same_after_a_kill(tmp_path):
    arguments = ["method=doomed", "method.worst=-1", *SMALL]
    _completed(arguments, tmp_path / "undisturbed")
    _killed(arguments, "record 2", tmp_path / "killed")
    _completed(arguments, tmp_path / "killed")
    records = outcome(tmp_path / "killed")
    assert records == outcome(tmp_path / "undisturbed")
    assert [(r["status"], r["diverged_at"]) for r in records] == [("diverged", 40)] * 3
