"""The W&B mirror with the real client: offline files read back, uploads to a server on loopback, servers that fail."""

from __future__ import annotations

import json
import socket
from dataclasses import replace

import pytest

from bench.cli import main
from bench.config import compose
from bench.errors import RunFailed
from bench.fit.interrupt import Interrupted
from bench.mirror import content, ledger
from bench.mirror.follow import current
from bench.run import execute
from bench.store import Store
from stubs import PAIR, fit_raises, record_of
from wandb_files import read
from wandb_server import Server

pytestmark = pytest.mark.usefixtures("stub_registry", "clean_home")

PATIENT = "wandb.wait=240"
"""Tests run on busy machines; nothing is measured by it."""

MEDIA = ("table/metrics", "table/samples", "figure/curves", "figure/samples")


@pytest.fixture
def clean_home(tmp_path, monkeypatch):
    """No key and no settings of the user's, and nothing is written into their home."""
    import matplotlib

    monkeypatch.setenv("MPLCONFIGDIR", matplotlib.get_cachedir())  # a new font cache takes seconds
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_PROJECT", "WANDB_ENTITY", "NETRC", "WANDB_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server(monkeypatch):
    with Server() as found:
        for name, value in found.environment.items():
            monkeypatch.setenv(name, value)
        yield found


def config_of(folder, mode, *more):
    return compose([*PAIR, "seeds=2", f"paths.results={folder / 'results'}", "device=cpu", f"wandb.mode={mode}", *more])


def finished(config, seed):
    """A record with curves; every seed's are its own."""
    steps = list(range(10, 110, 10))
    loss = {"step": steps, "value": [1.0 / (step + seed) for step in steps]}
    loss["value"][3] = None  # a player that rests
    followed = {"step": [50, 95], "value": [0.5 + seed, 0.25 + seed], "protocol": "p"}
    samples = [[0.1, 0.2], [0.3, 0.4]]
    return record_of(config, seed) | {
        "curve": {"loss": {"q": loss}, "metrics": {"js_grid": followed}},
        "samples": samples,
    }


def fit(config, seeds, store):
    return [finished(config, seed) for seed in seeds]


def history(run):
    """Rows without what the client adds; media separately."""
    kept = [(row["_step"], {k: v for k, v in row.items() if k.startswith(("loss/", "metric/"))}) for row in run.history]
    return [row for row in kept if row[1]]


def test_offline_runs_are_read_back_and_failed_attempts_share_the_id(tmp_path):
    config = config_of(tmp_path, "auto", "wandb.artifacts=true")  # no key: offline
    store, told = Store(config.results), []
    with pytest.raises(Interrupted):
        execute(config, fit=interrupted)
    assert ledger.offline_folders(store.artifacts) == []  # nothing to show yet; the next attempt has it all
    with pytest.raises(RunFailed):
        execute(replace(config, seeds=[1]), fit=fit_raises)
    for seed in config.seeds:
        store.parameters.mkdir(parents=True, exist_ok=True)
        (store.parameters / f"{config.run_id(seed)}.safetensors").write_bytes(b"parameters")
    execute(config, fit=fit, retry=True, progress=told.append)
    assert [line for line in told if "W&B" in line] == []

    runs = [read(folder) for folder in ledger.offline_folders(store.artifacts)]
    ids = [config.run_id(seed) for seed in (0, 1)]
    assert sorted(run.run.run_id for run in runs) == [ids[0], ids[1], ids[1]]
    failed = [run for run in runs if run.exit != 0]
    assert [(run.run.run_id, run.history and history(run), run.summary["status"]) for run in failed] == [
        (ids[1], [], "failed")
    ]
    for run in runs:
        assert (run.run.run_group, run.run.job_type) == (config.config_id, "stub_gauss")
        assert (run.run.project, list(run.run.tags)) == ("sivibench", ["stub_plain", "stub_gauss"])
        assert run.config["method"] == config.identity["method"]
        if run.exit == 0:
            seed = run.config["seed"]
            record = store.get(run.run.run_id, "stub_gauss", "stub_plain")
            assert history(run) == content.rows(record["curve"]) and len(history(run)) == 10
            assert run.summary["final/stub"] == 0.5 + seed and run.summary["status"] == "done"
            last = {key.split(".")[0] for key in run.history[-1]}
            assert last.issuperset(MEDIA)
            assert run.artifacts[-1] == f"parameters-{run.run.run_id}"


def interrupted(config, seeds, store):
    raise Interrupted(15)


def test_one_online_run_over_a_requeue_with_every_line_once(tmp_path, server, monkeypatch):
    config = config_of(tmp_path, "auto", PATIENT)
    store = Store(config.results)
    monkeypatch.setattr("bench.mirror.follow.STOP_SECONDS", 240.0)

    def stopped(config, seeds, store):
        assert current() is None  # reports are rare
        monkeypatch.setattr("bench.mirror.follow.LIVE_SECONDS", 0.0)
        mirror = current()
        assert mirror is not None
        for until in (4, 7):  # the curves as they grow
            mirror.report([(seed, part(finished(config, seed)["curve"], until)) for seed in seeds], 100)
        raise Interrupted(15)

    with pytest.raises(Interrupted):
        execute(config, fit=stopped)
    ids = [config.run_id(seed) for seed in config.seeds]
    for run_id, seed in zip(ids, config.seeds, strict=True):  # live, before there is a record
        whole = content.rows(finished(config, seed)["curve"])
        assert history(server.runs[run_id]) == [row for row in whole if row[0] <= 70]
    execute(config, fit=fit)
    assert sorted(server.runs) == sorted(ids)
    for run_id in ids:
        run, record = server.runs[run_id], store.get(run_id, "stub_gauss", "stub_plain")
        assert history(run) == content.rows(record["curve"])
        assert run.summary["final/stub"] == record["metrics"]["stub"]["value"]
        assert (run.first("groupName"), run.first("jobType")) == (config.config_id, "stub_gauss")
        assert run.exits == [1, 0]
        assert any("figure/curves" in name for name in run.files)
    lines = {run_id: len(server.runs[run_id].history) for run_id in ids}
    assert main(["wandb", "push", "--results", config.results]) == 0
    assert lines == {run_id: len(server.runs[run_id].history) for run_id in ids}


def part(curve, n):
    loss = {player: {key: line[key][:n] for key in ("step", "value")} for player, line in curve["loss"].items()}
    known = [i for i, step in enumerate(curve["metrics"]["js_grid"]["step"]) if step <= 10 * n]
    followed = {"js_grid": {key: [curve["metrics"]["js_grid"][key][i] for i in known] for key in ("step", "value")}}
    return {"loss": loss, "metrics": followed}


def test_without_a_server_runs_stay_offline_and_sync_uploads_them(tmp_path, server, monkeypatch, capsys):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{unused.getsockname()[1]}"
    config = config_of(tmp_path, "online", PATIENT)
    told = []
    monkeypatch.setenv("WANDB_BASE_URL", dead)
    records = execute(config, fit=fit, progress=told.append)
    assert [record["status"] for record in records] == ["done", "done"]
    assert [line for line in told if f"offline copies only ({dead} does not answer)" in line]
    assert main(["wandb", "sync", "--results", config.results]) == 2
    assert "does not answer" in capsys.readouterr().err

    monkeypatch.setenv("WANDB_BASE_URL", server.address)
    assert main(["wandb", "sync", "--results", config.results, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"uploaded": 2, "reused": 0, "left": 0}
    for seed in config.seeds:
        run = server.runs[config.run_id(seed)]
        assert history(run) == content.rows(finished(config, seed)["curve"])
        assert run.summary["status"] == "done" and run.exits == [0]
    assert main(["wandb", "sync", "--results", config.results, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"uploaded": 0, "reused": 2, "left": 0}


def test_a_server_that_stops_answering_costs_the_wait_and_nothing_else(tmp_path, server, capsys):
    config = config_of(tmp_path, "online", "wandb.wait=0.2")
    store, told = Store(config.results), []

    def fit_and_lose_the_server(config, seeds, store):
        server.answering.clear()
        return fit(config, seeds, store)

    records = execute(config, fit=fit_and_lose_the_server, progress=told.append)
    assert [record["status"] for record in records] == ["done", "done"]
    assert any("2 of 2 runs not mirrored (no end within 0.2 s)" in line for line in told)
    server.answering.set()
    assert main(["wandb", "push", "--results", config.results, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"online": 2, "offline": 0, "reused": 0, "left": 0}
    for seed in config.seeds:
        assert history(server.runs[config.run_id(seed)]) == content.rows(finished(config, seed)["curve"])
    store.put(store.find(config.run_id(0)) | {"evaluated_later": []})  # changed: goes up again, its history does not
    assert main(["wandb", "push", "--results", config.results, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"online": 1, "offline": 0, "reused": 1, "left": 0}
    assert history(server.runs[config.run_id(0)]) == content.rows(finished(config, 0)["curve"])


def test_push_says_what_is_wrong_before_it_does_anything(tmp_path, monkeypatch, capsys):
    config = config_of(tmp_path, "disabled")
    execute(config, fit=fit)
    for overrides, word in (
        (["method=nope"], "says nothing about W&B"),
        (["wandb.nope=1"], "nope"),
        (["wandb.mode=later"], "wandb.mode=later is not a choice"),
        (["wandb.mode=disabled"], "nothing may be mirrored"),
        (["wandb.mode=online"], "no key for https://api.wandb.ai"),
    ):
        assert main(["wandb", "push", *overrides, "--results", config.results]) == 2
        assert word in capsys.readouterr().err
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # discard: nobody listens
    assert main(["wandb", "push", "--results", config.results]) == 2
    assert "http://127.0.0.1:9 does not answer" in capsys.readouterr().err
    assert not (Store(config.results).artifacts / "mirror").exists()


def test_what_goes_wrong_at_the_start_is_told_and_the_run_goes_on(tmp_path, monkeypatch):
    config = config_of(tmp_path, "online")

    def broken(*arguments, **keys):
        raise OSError("no more processes")

    monkeypatch.setattr("bench.mirror.follow.subprocess.Popen", broken)
    told = []
    assert [record["status"] for record in execute(config, fit=fit, progress=told.append)] == ["done", "done"]
    assert any("no key" in line and "offline" in line for line in told)
    assert any("not mirrored: OSError: no more processes" in line for line in told)
