"""Parts of the submission that need no SLURM: profiles, packing, parsing, estimates, interruption."""

from __future__ import annotations

import os
import signal
import subprocess
from argparse import Namespace
from dataclasses import replace
from io import StringIO

import pytest
import torch

from bench import claims
from bench import run as running
from bench.cli import cluster, main
from bench.cli import watch as watching
from bench.config import compose
from bench.config import many as composing
from bench.errors import UserError
from bench.fit import interrupt
from bench.fit.parallel import Processes
from bench.launch import queue, worker
from bench.launch import state as states
from bench.launch.estimate import describe_cost
from bench.launch.group import Group, make_groups, pack, require_work
from bench.launch.journal import Journal, read_story
from bench.launch.manifest import Manifest
from bench.launch.options import compose_options, split_options
from bench.launch.queue import JobState, Queue, parse_sacct, parse_scontrol
from bench.launch.site import SITES, Site, check_shared, load_site
from bench.launch.state import RunState, Situation
from bench.plan.cells import longest_first, make_plan
from bench.plan.expand import sweep_of
from bench.plan.pace import pace, pace_of
from bench.record import glance
from bench.run import finished, retried
from bench.store import Store
from bench.sweep import run_sweep
from stubs import record_of, task_done


@pytest.mark.parametrize("name", [path.stem for path in SITES.glob("*.yaml")])
def test_shipped_profiles_load(name):
    assert load_site(name).max_array >= 1


def test_the_example_names_every_key():
    text = (SITES / "example.yaml").read_text()
    assert all(f"\n{key}:" in text for key in Site.__dataclass_fields__)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("nope: 1", "keys are: partition"),
        ("nodes: 0", "nodes=0 is too small"),
        ("signal_seconds: -1", "signal_seconds=-1 is too small"),
        ("gpus_per_node: ${N}", "gpus_per_node is no number"),
        ("memory_gb: -4", "memory_gb=-4.0 is too small"),
        ("cpus: many", "cannot read"),
        ("[", "cannot read"),
        ("5", "cannot read"),
    ],
)
def test_mistakes_in_a_profile(content, words, tmp_path):
    (tmp_path / "bad.yaml").write_text(content)
    with pytest.raises(UserError, match=words):
        load_site(str(tmp_path / "bad.yaml"))


def test_what_a_profile_means(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "mine.yaml"
    path.write_text("gres: 'gpu:a100:2,license:1'\nsetup: ['export X=${HOME}/x']\nshared: [~/work, $HOME/runs]\n")
    site = load_site(str(path))
    assert site.gpus == 2 and site.setup == ["export X=${HOME}/x"]
    assert [Site(gres=gres, gpus_per_node=3).gpus for gres in ("gpu", "gpu:h100", "gpu:4", "license", None)] == [
        1, 1, 4, 3, 3
    ]  # fmt: skip
    for place in ("work/results", "runs"):
        check_shared(site, tmp_path / place)
    with pytest.raises(UserError, match="compute nodes do not see"):
        check_shared(site, tmp_path / "workshop")
    with pytest.raises(UserError, match="unknown site 'nope'.*\n.*example"):
        load_site("nope")


def test_only_one_process_submits_at_a_time(tmp_path):
    store = Store(tmp_path)
    arguments = {"results": tmp_path, "tell": lambda line: None}
    with claims.claim(store.sweeps, ["submitting"]), pytest.raises(UserError, match=f"process {os.getpid()} on"):
        run_sweep(sweep_of(["method=meanfield target=banana"]), ["launcher=slurm", "site=cpu"], **arguments)


def test_a_watched_sweep_is_drawn_on_a_terminal_and_told_elsewhere(tmp_path, monkeypatch):
    plan = make_plan(sweep_of(["method=meanfield target=banana seeds=2"]), results=tmp_path)
    monkeypatch.setattr(watching, "EVERY", 0.0)
    monkeypatch.setattr(watching.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(watching.shutil, "get_terminal_size", lambda: os.terminal_size((60, 3)))
    for terminal in (True, False):
        waits, ended = Queue({"1": JobState("PENDING")}, True), Queue({"1": JobState("FAILED")}, True)
        queues = [waits, waits, Queue({}, False), ended]

        def look(plan, queues=queues):
            now = Situation(plan.store, {}, queues.pop(0), {})
            state = "queued" if now.live else "lost"
            runs = [vars(RunState(f"c-s{s}", state)) | {"method": "m", "target": "t", "seed": s} for s in (0, 1)]
            return runs, [] if now.queue.reached else ["silence"], now

        monkeypatch.setattr(watching.states, "of_plan", look)
        stream = StringIO()
        stream.isatty = lambda terminal=terminal: terminal
        watching.watch(plan, stream)
        shown = stream.getvalue()
        assert queues == []  # a controller that does not answer ends nothing
        if terminal:
            assert shown.count("\x1b[2F\x1b[J[") == 3 and shown.count("\x1b[J[") == 4 and "more lines" in shown
        else:
            assert [line[11:] for line in shown.splitlines()] == ["2 queued", "2 lost; note: silence", "2 lost"]


def submitted(folder, **jobs):
    """A submission of jobs (named ``job12``), each with seed 0 of the configuration named."""
    groups = {job.removeprefix("job"): [{"config_id": name, "seeds": [0]}] for job, name in jobs.items()}
    return Manifest("s", [], [], [], "2026-01-01", None, None, "", None, {}, str(folder), groups)


def test_a_watched_sweep_does_not_wait_for_jobs_of_others(tmp_path, monkeypatch):
    store, manifest = Store(tmp_path), submitted(tmp_path, job1="mine", job2="other")
    monkeypatch.setattr(states, "ask", lambda jobs: Queue({job: JobState("RUNNING") for job in jobs}, True))
    monkeypatch.setenv("SLURM_JOB_ID", "2")
    with claims.claim(store.claims, ["other-s0"]):
        assert states.situation(store, [manifest], ["mine-s0"]).live == ["1"]
        assert sorted(states.situation(store, [manifest]).live) == ["1", "2"]
        with claims.claim(store.claims, ["mine-s0"]):  # job 2 was given this run once, and still works on it
            assert sorted(states.situation(store, [manifest], ["mine-s0"]).live) == ["1", "2"]


def test_only_a_refusal_that_was_the_end_of_a_job_is_told(tmp_path, monkeypatch):
    now = Situation(
        Store(tmp_path), {"c-s0": (submitted(tmp_path, job7="c"), "7")}, Queue({"7": JobState("FAILED")}, True), {}
    )

    def story(*events):
        journal = Journal(tmp_path)
        journal.path.unlink(missing_ok=True)
        for restart, event in events:
            monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart))
            journal.write(event, detail="no way")
        now._read.clear()
        return now.of("c-s0", None).reason

    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert "requeue refused: no way" in story((0, "start"), (0, "requeue refused"))
    assert "requeue refused: no way" in story((0, "requeued"), (1, "start"), (1, "requeue refused"))
    assert "refused" not in story((0, "requeue refused"), (1, "start"))
    assert "refused" not in story((0, "requeue refused"), (0, "requeued"))
    assert "refused" not in story((0, "requeued"), (0, "requeue refused"))


def test_what_a_journal_comes_to(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    journal = Journal(tmp_path)
    assert read_story(journal.path).silent
    for restart, event, run, more in [
        (0, "begin", "again", {}),
        (0, "done", "again", {"problem": None}),
        (0, "begin", "good", {}),
        (0, "done", "good", {"problem": None}),
        (1, "begin", "again", {}),
        (1, "begin", "bad", {}),
        (1, "done", "bad", {"problem": "no luck"}),
        (1, "timeout", "next", {}),
    ]:
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart))
        journal.write(event, runs=[run], **more)
    story = read_story(journal.path)
    assert not story.silent and story.begun == {"again", "good", "bad"} and story.finished == {"good"}
    assert story.passed == {"bad"} and story.problems == {"again": None, "good": None, "bad": "no luck"}


def test_a_finished_run_that_is_evaluated_is_finished(tmp_path):
    store, config = Store(tmp_path), compose(["method=meanfield", "target=banana", "seeds=2"])
    known = {config.run_id(seed): record_of(config, seed, status) for seed, status in enumerate(["done", "failed"])}
    with claims.claim(store.claims, list(known)):
        now = states.situation(store, [])
        assert [now.of(run_id, record).state for run_id, record in known.items()] == ["done", "running"]


@pytest.mark.parametrize("known", [[], ["1", "2"]])
def test_a_sweep_is_not_said_to_be_cancelled_when_slurm_does_not_answer(known, tmp_path, monkeypatch, capsys):
    cancelled = []
    jobs = {job: JobState("RUNNING") for job in known}
    monkeypatch.setattr(cluster, "submissions", lambda args: (Store(tmp_path), [submitted(tmp_path)]))
    monkeypatch.setattr(queue, "check_slurm", lambda partition: None)
    monkeypatch.setattr(queue, "cancel", cancelled.extend)
    monkeypatch.setattr(states, "ask", lambda asked: Queue(jobs, False))
    with pytest.raises(UserError, match="did not answer for all jobs\n.*repeat `sivibench cancel mine`"):
        cluster.cancel(Namespace(name="mine", json=False))
    assert cancelled == known and f"cancelled {len(known)} jobs" in capsys.readouterr().out


def test_options_of_a_command_line():
    where, rest = split_options(["launcher=slurm", "method=sivi", "launcher.pack=3", "site=x"])
    assert where == ["launcher=slurm", "launcher.pack=3", "site=x"] and rest == ["method=sivi"]
    options = compose_options(where)
    assert (options["name"], options["pack"], options["site"], options["seeds"]) == ("slurm", 3, "x", None)
    for wrong, words in [
        (["launcher=nope"], "unknown launcher"),
        (["launcher.pack=0"], "too small"),
        (["launcher.pak=1"], "did you mean launcher.pack"),
        (["site=x"], "site=x has no meaning with launcher=local\n.*add launcher=slurm"),
        (["launcher.minutes=5"], "launcher.minutes=5 has no meaning with launcher=local\n.*add launcher=slurm"),
        (["launcher=local", "launcher.pack=3"], "launcher.pack=3 has no meaning with launcher=local"),
        (["launcher={pack:4}"], "launcher.pack=4 has no meaning with launcher=local"),
        (["launcher.snapshot=true"], "launcher.snapshot=true has no meaning"),
        (["launcher.tasks_per_gpu=2"], "launcher.tasks_per_gpu=2 has no meaning"),
        (["launcher=debug", "launcher.timeouts=2"], "launcher.timeouts=2 has no meaning with launcher=debug"),
        (["launcher=debug", "launcher.parallel=2"], "launcher.parallel=2 has no meaning with launcher=debug"),
        (["launcher=slurm"], None),
    ]:
        if words is None:
            with pytest.raises(UserError, match="needs a site"):
                load_site(compose_options(wrong)["site"])
        else:
            with pytest.raises(UserError, match=words):
                compose_options(wrong)
    assert compose_options(["launcher.parallel=2", "launcher.seeds=3"])["name"] == "local"


@pytest.mark.parametrize("launcher", [["launcher=debug"], ["launcher=slurm", "site=cpu"]])
def test_processes_at_once_are_of_the_local_launcher(launcher, tmp_path):
    with pytest.raises(UserError, match=f"--jobs 2 has no meaning with {launcher[0]}"):
        run_sweep(sweep_of(["method=meanfield target=banana"]), launcher, jobs=2, results=tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_watching_is_for_jobs_of_a_cluster(tmp_path, capsys):
    for more in ([], ["launcher=debug"], ["--dry-run"]):
        line = ["sweep", "method=meanfield", "target=banana", "--watch", *more]
        assert main([*line, "--results", str(tmp_path / "results")]) == 2
        captured = capsys.readouterr()
        assert "--watch has no meaning with launcher=" in captured.err and captured.out == ""
    assert not (tmp_path / "results").exists()


def test_where_it_runs_is_no_part_of_a_runs_identity():
    plain = compose(["method=meanfield"])
    assert compose(["method=meanfield", "launcher=slurm", "site=x", "seed=0"]).config_id == plain.config_id
    assert compose(["seed=7", "seeds=3"]).seeds == [7]


def test_three_thousand_cells_are_planned_by_few_compositions(tmp_path, monkeypatch):
    calls = []
    from bench.config.compose import compose_raw as original

    monkeypatch.setattr(composing, "compose_raw", lambda groups: calls.append(groups) or original(groups))
    line = "method=meanfield,fullrank target=banana,x_shaped,multimodal"
    line += " method.batch=range(1,51) train.iterations=range(1,11)"
    lines: list[str] = []
    outcome = run_sweep(sweep_of([line]), results=tmp_path, dry_run=True, tell=lines.append)
    assert len(outcome.plan.cells) == 3000 and len(calls) == 5  # methods + targets
    assert "3000 cells, 3000 runs; 0 on record, 3000 to do" in lines[0]


def test_groups_and_packs(tmp_path):
    plan = make_plan(sweep_of(["method=meanfield target=banana,x_shaped seeds=5"]), results=tmp_path)
    first, second = plan.cells
    todo = {first.config.config_id: [0, 1, 2, 3, 4], second.config.config_id: [2]}
    groups = make_groups(plan.cells, todo, 2)
    assert [group.config.seeds for group in groups] == [[0, 1], [2, 3], [4], [2]]
    assert groups[0].runs == [f"{first.config.config_id}-s0", f"{first.config.config_id}-s1"]
    jobs = pack(groups, 3)
    assert [len(job) for job in jobs] == [2, 2] and sorted(
        run for job in jobs for g in job for run in g.runs
    ) == sorted(run for g in groups for run in g.runs)
    assert isinstance(jobs[0][0], Group) and pack([], 4) == []


def test_the_time_of_a_sweep_is_estimated_from_the_latest_records(tmp_path):
    store = Store(tmp_path)

    def put(target, created, seconds, device):
        record = record_of(compose([f"target={target}", "method=meanfield", f"train.iterations={len(created)}"]), 0)
        cost = {"seconds": seconds, "iterations": 100, "seeds_sharing": 2}
        store.put(record | {"created": created, "cost": cost, "env": record["env"] | {"device": device}})

    put("banana", "2026-01-02", 36.0, "cpu")
    put("banana", "2026-01-01T", 999.0, "cpu")
    put("x_shaped", "2026-01-01", 36.0, "cuda:0")
    (store.runs / "banana" / "meanfield" / "damaged.json").write_text('{"cost": 3}')
    paces = pace(store)
    line = "method=meanfield target=banana,x_shaped,multimodal seeds=8 train.iterations=1000"
    plan = make_plan(sweep_of([line]), results=tmp_path / "empty")
    groups = make_groups(plan.cells, {cell.config.config_id: cell.config.seeds for cell in plan.cells}, None)
    # 360 s for 2 seeds: a CPU takes four times as long for 8, a GPU as long.
    assert [pace_of(g.config, paces).estimate(g.config) for g in groups[:2]] == [1440.0, 360.0]
    said = describe_cost(groups, paces, gpus=1, side_by_side=1)
    assert said.startswith("about 0.5 GPU-hours (at the pace of a CPU") and "1 batched runs without" in said
    assert describe_cost(groups[1:2], paces, gpus=2, side_by_side=4) == "about 0.05 GPU-hours"
    assert describe_cost(groups[2:], paces, gpus=0, side_by_side=1).startswith("no past record")
    assert [cell.target for cell in longest_first(plan.cells, paces)] == ["multimodal", "banana", "x_shaped"]
    joint = [replace(g, config=replace(g.config, train=g.config.train | {"processes": 4})) for g in groups[1:2]]
    assert describe_cost(joint, paces, gpus=4, side_by_side=4).startswith("about 0.4 GPU-hours")
    require_work(joint, 1, 4)
    require_work(groups, 4, 4)
    with pytest.raises(UserError, match="pack=1 leaves 3 of the 4 processes"):
        require_work(groups, 1, 4)


def test_a_retry_names_what_is_replaced(tmp_path):
    config = compose(["method=meanfield", "target=banana", "seeds=3"])
    store = Store(tmp_path)
    for seed, status in enumerate(["done", "failed", "diverged"]):
        store.put(record_of(config, seed, status))
    assert set(finished(config, store, config.seeds)) == {0, 1, 2}
    assert set(finished(config, store, config.seeds, retry=frozenset({"failed"}))) == {0, 2}
    assert set(finished(config, store, config.seeds, retry=True)) == {0}
    assert not retried("done", True)
    plan = make_plan(sweep_of(["method=meanfield target=banana seeds=3"]), results=tmp_path)
    [cell] = plan.cells
    assert cell.todo(retry=frozenset({"failed"})) == [1]
    [group] = make_groups([cell], {config.config_id: [1]}, None)
    assert list(group.redo) == [1]


def test_what_slurm_says_is_understood():
    found = parse_scontrol(
        "JobId=5 ArrayJobId=5 ArrayTaskId=2-4,7%2 JobName=x JobState=PENDING Reason=JobArrayTaskLimit NodeList=(null)\n"
        "JobId=6 ArrayJobId=5 ArrayTaskId=0 JobState=RUNNING Reason=None NodeList=n1 ExitCode=0:0\n"
        "JobId=8 JobState=FAILED Reason=NonZeroExitCode ExitCode=137:0 NodeList=n2\n"
        "JobId=9 JobState=CANCELLED Reason=None ExitCode=0:15 NodeList=n2\n"
        "JobId=10 JobState=NODE_FAIL Reason=NodeDown ExitCode=0:1 NodeList=n2\n"
    )
    assert sorted(found) == ["10", "5_0", "5_2", "5_3", "5_4", "5_7", "8", "9"]
    assert found["5_3"] == JobState("PENDING", "JobArrayTaskLimit") and found["5_3"].live
    assert not found["5_3"].stuck and JobState("PENDING", "PartitionConfig").stuck
    assert JobState("PENDING", "QOSMaxGRESPerJob").stuck and not JobState("PENDING", "QOSMaxJobsPerUserLimit").stuck
    assert found["5_0"] == JobState("RUNNING", "", "n1")
    assert "SIGKILL" in found["8"].reason and "scancel" in found["9"].reason and found["10"].reason == "node lost"
    accounted = parse_sacct(
        "5_0|COMPLETED|0:0|n1\n5_[3-4%2]|PENDING|0:0|\n7|CANCELLED by 0|0:0|n1\n8|OUT_OF_MEMORY|0:125|n1\n"
    )
    assert sorted(accounted) == ["5_0", "5_3", "5_4", "7", "8"]
    assert accounted["7"].state == "CANCELLED" and accounted["8"].reason == "out of memory"


def test_a_glance_at_a_record(tmp_path):
    config = compose(["method=meanfield", "target=banana"])
    path = Store(tmp_path).put(record_of(config, 0))
    assert glance(path, ("method", "cost", "schema", "created")) == {
        key: Store(tmp_path).find("")[key] for key in ("method", "cost", "schema", "created")
    }
    assert glance(tmp_path / "none.json", ("method",)) == {}


def test_a_signal_waits_while_it_is_held_and_comes_at_once_otherwise():
    def send() -> None:
        os.kill(os.getpid(), signal.SIGUSR2)

    with interrupt.listening(signal.SIGUSR2):
        with pytest.raises(interrupt.Interrupted) as stop:
            send()
        assert stop.value.number == signal.SIGUSR2
        reached = False
        with pytest.raises(interrupt.Interrupted), interrupt.held():
            assert not interrupt.pending()
            send()
            assert interrupt.pending()
            reached = True
        assert reached
        with interrupt.held():
            pass
    assert signal.getsignal(signal.SIGUSR2) == signal.SIG_DFL


def test_an_interrupted_fit_stops_within_an_iteration_and_ends_the_same(tmp_path, monkeypatch):
    from bench.config import build_method, build_target
    from bench.fit import loop
    from bench.fit.checkpoint import Checkpoint
    from bench.fit.members import initialise

    config = compose(["method=meanfield", "target=banana", "method.batch=5"])
    target, original = build_target(config), loop.build
    calls = []

    def once(checkpoint=None):
        return loop.fit(initialise(lambda: build_method(config, target), [0, 1]), [0, 1], 1000, checkpoint=checkpoint)

    def build(*arguments, **keys):
        advance = original(*arguments, **keys)

        def counted():
            calls.append(advance())
            if len(calls) == 12:  # losses are logged after 10 and 15
                os.kill(os.getpid(), signal.SIGTERM)

        return counted

    calm = once()
    monkeypatch.setattr(loop, "build", build)
    checkpoint = Checkpoint(tmp_path, config.config_id, [0, 1])
    with interrupt.listening(signal.SIGTERM), pytest.raises(interrupt.Interrupted):
        once(checkpoint)
    assert int(checkpoint.load(torch.device("cpu"))["state"]["step"]) == len(calls) == 12
    resumed = once(checkpoint)
    assert all(torch.equal(resumed.state[key], calm.state[key]) for key in calm.state)
    assert resumed.losses == calm.losses and resumed.loss_steps == calm.loss_steps


def test_an_interrupted_fit_has_saved_all_it_did_and_ends_the_same(tmp_path):
    from bench.config import build_method, build_target
    from bench.fit.checkpoint import Checkpoint
    from bench.fit.loop import fit
    from bench.fit.members import initialise

    config = compose(["method=meanfield", "target=banana", "method.batch=5"])
    target = build_target(config)

    def once(checkpoint, hook=None):
        members = initialise(lambda: build_method(config, target), [0, 1])
        return fit(members, [0, 1], 60, checkpoint=checkpoint, curve_steps=[20], curve_hook=hook)

    def hook(step, run):
        os.kill(os.getpid(), signal.SIGTERM)
        return {"step": step}

    checkpoint = Checkpoint(tmp_path, config.config_id, [0, 1])
    with interrupt.listening(signal.SIGTERM), pytest.raises(interrupt.Interrupted):
        once(checkpoint, hook)
    saved = checkpoint.load(torch.device("cpu"))
    assert int(saved["state"]["step"]) == 20
    resumed, calm = once(checkpoint), once(None, lambda step, run: {"step": step})
    assert all(torch.equal(resumed.state[key], calm.state[key]) for key in calm.state)
    assert resumed.curve == calm.curve


def test_local_and_debug_launchers_do_the_same(tmp_path):
    sweep = sweep_of(["method=meanfield target=banana,x_shaped seeds=2"])
    found = {}
    for name in ("local", "debug"):
        options = [f"launcher={name}", "launcher.seeds=1"]
        outcome = run_sweep(sweep, options, results=tmp_path / name, task=task_done, tell=lambda line: None)
        assert [len(result.statuses) for result in outcome.results] == [1] * 4  # a fit for each seed
        found[name] = {record["run_id"]: record["status"] for record in Store(tmp_path / name).records()}
    assert found["local"] == found["debug"] and list(found["debug"].values()) == ["done"] * 4


@pytest.mark.parametrize("left", [[[], [0]], [[0], []]])
def test_processes_that_train_together_do_what_the_first_one_sees(left, tmp_path, monkeypatch):
    """A record may be seen by some of them only; the others would wait for them for days."""
    config = compose(["method=meanfield", "target=banana", "device=cpu", "train.processes=2"])
    group, said, fitted = Group(replace(config, seeds=[0], results=str(tmp_path)), config.config_id), [], []

    class Rank(Processes):
        def tell(self, message):
            return said.append(message) or message if self.first else said.pop(0)

    def fit(config, seeds, store):
        fitted.append(seeds)
        return [record_of(config, seed) for seed in seeds]

    monkeypatch.setattr(running, "_engine", lambda: fit)
    for rank in (0, 1):
        monkeypatch.setattr(running, "processes_of", lambda config, rank=rank: Rank(rank, 2))
        monkeypatch.setattr(worker, "_left", lambda group, rank=rank: left[rank])
        assert worker._do(group, Journal(tmp_path)) == []
    assert said == [] and fitted == ([[0], [0]] if left[0] else [])


def test_ci_and_make_know_the_tests():
    from processes import ROOT

    assert "make test-slurm" in (ROOT / ".ci/run").read_text() and "SLURM_TESTS=1" in (ROOT / "Makefile").read_text()
    assert subprocess.run(["bash", "-n", ROOT / ".ci/run"]).returncode == 0
