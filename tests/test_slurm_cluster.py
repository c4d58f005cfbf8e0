"""Sweeps on a real SLURM: a private cluster of two nodes with two fake GPUs each (``slurm/testcluster``)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from bench.environment import PACKAGES
from bench.launch.journal import read_journal
from bench.launch.queue import ask
from bench.store import Store
from processes import ROOT, outcome
from slurm.testcluster import Cluster, Settings, missing_programs
from slurm_lab import PATIENCE, Lab
from wandb_server import Server

pytestmark = pytest.mark.slurm

TARGETS = "banana,multimodal,x_shaped,dozing"
QUICK = f"method=quick_a,quick_b,quick_c target={TARGETS} seeds=5 device=cpu tuned=none train.iterations=10"
DOZING = "method=meanfield target=dozing method.batch=10 device=cpu tuned=none eval.samples=0"


@pytest.fixture(scope="session")
def cluster():
    """One for the whole session; torn down even if pytest is killed."""
    lacking = missing_programs()
    if lacking:
        if os.environ.get("SLURM_TESTS"):
            pytest.fail(f"SLURM's programs are missing: {', '.join(lacking)}")
        pytest.skip("SLURM's programs are not installed")
    with Cluster() as found:
        yield found


@pytest.fixture
def lab(cluster):
    """A lab on another file system than the repository's, where there is one."""
    folder = Path(tempfile.mkdtemp(prefix="sivibench-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    found = Lab(cluster, folder)
    yield found
    for job in {line.split()[0].partition("_")[0] for line in cluster.call("squeue", "-h", "-o", "%i").splitlines()}:
        cluster.call("scancel", "-f", job)
    found.settle()  # what still runs would make the folder again
    shutil.rmtree(folder, ignore_errors=True)


def test_sixty_runs_are_submitted_once_and_only_what_is_missing_again(lab):
    lab.write(QUICK)
    (lab.world / "hold").touch()
    told = lab.submit("launcher.parallel=2", "launcher.seeds=1", "launcher.pack=10")
    assert "60 batched runs in 6 jobs, 1 array" in told and "submitted 60 runs as 6 jobs: " in told
    assert len(lab.last().jobs) == 6
    lab.wait(lambda: len(lab.queue("-t", "RUNNING")) == 2)
    assert "submitted 0 jobs" in lab.submit() and len(lab.queue("-t", "RUNNING")) == 2
    of_folder = [row for row in json.loads(lab.bench("status", "--json").stdout)]
    assert sum(row["queued"] + row["running"] for row in of_folder) == 60
    (lab.world / "hold").unlink()
    lab.settle()
    assert len(lab.records()) == 60 and set(lab.records().values()) == {"done"}, lab.logs()
    assert "60 done; 0 to submit" in lab.submit()
    files = Store(lab.results).files()
    for path in files[::25]:
        path.unlink()
    assert "57 done, 3 missing; 3 to submit" in lab.submit("launcher.pack=10")
    manifest = lab.last()
    assert sorted(run for job in manifest.jobs for run in manifest.runs(job)) == sorted(
        path.stem for path in files[::25]
    )
    lab.settle()
    assert len(lab.records()) == 60 and lab.status() == {}


def test_failures_are_named_and_finished_by_a_retry(lab):
    lab.write("method=quick_a target=banana,multimodal,x_shaped seeds=1 device=cpu tuned=none")
    (lab.world / "raise-quick_a-banana-0").touch()
    (lab.world / "kill-quick_a-multimodal-0").touch()
    (lab.world / "hold-quick_a-x_shaped-0").touch()
    lab.submit()
    lab.wait(lambda: len(lab.queue()) == 1)
    lab.wait(lambda: lab.status().get("quick_a-x_shaped-0", {}).get("state") == "running")
    found = lab.status()
    assert "job" in found["quick_a-x_shaped-0"]["reason"] and "heartbeat" in found["quick_a-x_shaped-0"]["reason"]
    lab.cluster.call("scancel", found["quick_a-x_shaped-0"]["job"])
    lab.settle()
    (lab.world / "hold-quick_a-x_shaped-0").unlink()
    found = lab.status()
    assert {name: run["state"] for name, run in found.items()} == {
        "quick_a-banana-0": "failed",
        "quick_a-multimodal-0": "lost",
        "quick_a-x_shaped-0": "lost",
    }
    assert found["quick_a-banana-0"]["reason"] == "ValueError: no luck today"
    assert "killed by SIGKILL" in found["quick_a-multimodal-0"]["reason"]
    assert "CANCELLED cancelled (scancel), while this run was on" in found["quick_a-x_shaped-0"]["reason"]
    states = lab.cluster.call("scontrol", "-o", "show", "job")
    assert states.count("JobState=FAILED") >= 2
    [failed] = Store(lab.results).records()
    assert failed["error"].startswith("Traceback") and lab.logs().count("ValueError: no luck today") >= 1
    assert "3 done\n" in lab.submit("--retry", "launcher.pack=3", "--watch")
    assert set(lab.records().values()) == {"done"} and len(lab.records()) == 3 and lab.status() == {}


def undisturbed(lab, line: str, tmp_path: Path):
    """What the runs of a line look like when nothing happens to them."""
    calm = Lab(lab.cluster, tmp_path)
    done = calm.bench("run", *line.split())
    assert done.returncode == 0, done.stderr
    return outcome(calm.results)


def test_a_time_limit_is_recorded_and_a_retry_continues_to_the_same_record(lab, tmp_path):
    line = f"{DOZING} train.iterations=1000 eval.curve_points=200 seeds=2"
    lab.write(line)
    lab.submit("launcher.minutes=1", "launcher.timeouts=1", TEST_NAP=1)
    lab.settle()
    assert set(lab.records().values()) == {"timeout"}, lab.logs()
    assert "time limit: checkpoint written, asking to be requeued" in lab.logs()
    assert "out of time: 1 minutes, 2 times" in lab.status()["meanfield-dozing-0"]["reason"]
    where = ["launcher=slurm", f"site={lab.site}"]
    assert "submitted 0 jobs" in lab.bench("sweep", lab.sweep, *where, "--retry=failed").stdout
    lab.submit("--retry=timeout")
    lab.settle()
    assert outcome(lab.results) == undisturbed(lab, line, tmp_path), lab.logs()
    assert all(record["cost"]["attempts"] >= 2 for record in Store(lab.results).records())


@pytest.mark.parametrize(("partition", "user_signal"), [("debug", False), ("grace", True), ("cancel", False)])
def test_a_preempted_run_continues_to_the_same_record(lab, tmp_path, partition, user_signal):
    """By SIGTERM alone; with a grace time and a warning; and cancelled, so that the command must be repeated."""
    line = f"{DOZING} train.iterations=400 eval.curve_points=50 seeds=2"
    if user_signal:
        lab.cluster.reconfigure(user_signal=True)
    lab.change_site(partition=partition)
    lab.write(line)
    lab.submit(TEST_NAP=1)
    checkpoints = lab.results / "artifacts" / "checkpoints"
    lab.wait(lambda: (lab.world / "dozed").exists())  # before, there is nothing to save
    [running] = lab.queue("-t", "RUNNING")
    lab.cluster.call(
        "sbatch", "-p", "high", "-w", running.split()[1], "--exclusive", "-o", "/dev/null", "--wrap", "true"
    )
    lab.wait(lambda: list(checkpoints.glob("*.pt")))  # saved on the signal: the interval is a minute
    (lab.world / "awake").touch()
    lab.settle()
    kinds = [event["event"] for event in lab.events()]
    if partition == "cancel":
        assert "PREEMPTED preempted and not requeued" in lab.status()["meanfield-dozing-0"]["reason"]
        lab.submit()
        lab.settle()
    else:
        assert kinds.count("start") == 2 and ("requeue asked" if user_signal else "stopped") in kinds, (
            kinds,
            lab.logs(),
        )
        [log] = lab.results.glob("artifacts/sweeps/lab/*/log/*.out")
        assert log.read_text().count("2 to fit") == 2  # one log over all restarts
    assert outcome(lab.results) == undisturbed(lab, line, tmp_path), lab.logs()
    assert [record["cost"]["attempts"] for record in Store(lab.results).records()] == [2, 2]
    if user_signal:
        lab.cluster.reconfigure(user_signal=False)


def test_a_restarted_controller_and_a_lost_node_cost_nothing_finished(lab):
    lab.write("method=quick_a,quick_b target=banana,multimodal seeds=2 device=cpu tuned=none")
    for target in ("banana", "multimodal"):
        for method in ("quick_a", "quick_b"):
            (lab.world / f"hold-{method}-{target}-1").touch()
    lab.change_site(gpus_per_node=2)  # one job per node
    lab.submit("launcher.seeds=1", "launcher.pack=4")
    lab.wait(lambda: len(lab.records()) == 4 or len(lab.records()) >= 2 and not lab.queue("-t", "PENDING"))
    before = {path: path.stat().st_mtime_ns for path in Store(lab.results).files()}
    assert before
    lab.cluster.stop_controller()
    assert "SLURM does not answer" in lab.bench("status", lab.sweep).stderr
    lab.cluster.start_controller()
    lab.wait(lambda: lab.queue("-t", "RUNNING", "-w", "n2"))
    lab.cluster.lose_node("n2")
    lab.cluster.start_node("n2")
    lab.cluster.call("scontrol", "update", "nodename=n2", "state=resume", check=False)
    for path in lab.world.iterdir():
        path.unlink()
    lab.settle()
    lab.submit()
    lab.settle()
    assert len(lab.records()) == 8 and set(lab.records().values()) == {"done"}, lab.logs()
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_arrays_are_cut_at_the_sites_maximum_and_a_sweep_is_cancelled(lab):
    lab.write("method=quick_a target=banana seeds=1 device=cpu tuned=none train.iterations=range(1,1202)")
    lab.change_site(options={"hold": True})
    told = lab.submit("launcher.parallel=50")
    assert "1201 batched runs in 1201 jobs, 2 arrays" in told
    assert "submitted 1000 runs as 1000 jobs" in told and "submitted 201 runs as 201 jobs" in told
    assert len(lab.queue()) == 1201 and "1201 queued; 0 to submit" in lab.submit()
    lab.cluster.call("scancel", *list(lab.last().jobs)[1:200:2])  # an array with gaps
    assert "1101 queued, 100 lost; 100 to submit" in lab.submit("--dry-run")
    done = lab.bench("cancel", lab.sweep)
    assert "cancelled 1101 jobs" in done.stdout, done.stderr
    assert lab.queue() == []


@pytest.mark.parametrize(
    ("site", "environment", "words"),
    [
        ({"partition": "nope"}, {}, ["no partition 'nope'", "cancel, debug, grace, high"]),
        ({"gpus_per_node": 8}, {}, ["sbatch refused", "node configuration is not available", "gpus_per_node=8"]),
        ({"account": "nobody", "options": {"bogus": 1}}, {}, ["sbatch refused", "bogus"]),
        ({"shared": ["/home/shared"]}, {}, ["compute nodes do not see", "/home/shared"]),
        ({}, {"PATH": "/nonexistent"}, ["there is no SLURM here", "launcher=local"]),
        ({}, {"SLURM_CONF": "/nonexistent"}, ["does not answer", "nothing was submitted"]),
    ],
)
def test_what_cannot_be_submitted_is_said_in_one_message(lab, site, environment, words):
    lab.write("method=quick_a target=banana seeds=1 device=cpu tuned=none")
    lab.change_site(**site)
    where = ["launcher=slurm", f"site={lab.site}", "launcher.pack=8"]
    done = lab.bench("sweep", lab.sweep, *where, **environment)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    for word in words:
        assert word in done.stderr
    assert lab.queue() == []


def test_jobs_that_slurm_takes_but_will_not_start_are_told(lab):
    lab.write("method=quick_a target=banana seeds=1 device=cpu tuned=none")
    lab.change_site(gpus_per_node=64, minutes=5)  # one process each: more than the CPUs of the partition's nodes
    told = lab.submit("launcher.pack=64")
    assert "will not start them (PartitionConfig)" in told and "gpus_per_node=64" in told
    lab.bench("cancel", lab.sweep)


def test_a_read_only_results_folder(lab, tmp_path):
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", tmp_path], capture_output=True)
    if done.returncode:
        pytest.skip("mounting a file system is not permitted")
    try:
        lab.write("method=quick_a target=banana seeds=1 device=cpu tuned=none")
        arguments = ["sweep", lab.sweep, "launcher=slurm", f"site={lab.site}", "--results", tmp_path / "results"]
        refused = lab.bench(*arguments)
        assert refused.returncode == 2 and "the file system is read-only" in refused.stderr
        assert lab.queue() == []
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_processes_share_a_gpu_and_one_that_dies_costs_its_own_share_only(lab):
    lab.write("method=quick_a target=banana,multimodal seeds=2 device=cpu tuned=none")
    (lab.world / "kill-quick_a-banana-0").touch()
    where = ["launcher=slurm", f"site={lab.site}", "launcher.seeds=1", "launcher.pack=4", "launcher.tasks_per_gpu=2"]
    done = lab.bench("sweep", lab.sweep, *where, "--watch")
    assert done.returncode == 1 and "2 done, 2 lost" in done.stdout, done.stdout + done.stderr
    assert "killed by SIGKILL" in done.stdout and "before this run began" in done.stdout
    begun = [(event["rank"], *event["runs"]) for event in lab.events() if event["event"] == "begin"]
    assert len(begun) == 3 and {rank for rank, _ in begun} == {0, 1}
    assert len(lab.records()) == 2
    done = lab.bench("sweep", lab.sweep, *where, "--watch")
    assert done.returncode == 0 and len(lab.records()) == 4, done.stdout + done.stderr


def test_processes_that_train_together_do_not_wait_for_one_that_failed(lab):
    lab.write("method=quick_a target=banana,multimodal seeds=1 device=cpu tuned=none train.processes=2")
    (lab.world / "raise-quick_a-banana-0").touch()
    where = ["launcher=slurm", f"site={lab.site}", "launcher.pack=2", "launcher.tasks_per_gpu=2"]
    done = lab.bench("sweep", lab.sweep, *where, "--watch")
    assert done.returncode == 1 and "1 failed, 1 lost" in done.stdout, done.stdout + done.stderr + lab.logs()
    assert "submit again for what is left" in lab.logs()
    done = lab.bench("sweep", lab.sweep, *where, "--retry", "--watch")
    assert done.returncode == 0 and list(lab.records().values()) == ["done"] * 2, done.stdout + lab.logs()


def test_code_that_changes_before_a_job_starts_is_noticed_and_a_snapshot_is_not_touched_by_it(lab, tmp_path):
    code, box = tmp_path / "code", tmp_path / "box"
    for package in (*PACKAGES, "slurm"):
        shutil.copytree(ROOT / package, code / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".gitignore", code)  # the command leaves compiled files
    git = ["git", "-C", str(code), "-c", "user.name=lab", "-c", "user.email=lab@localhost"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "code"]):
        subprocess.run([*git, *command], check=True)
    sha = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    box.write_text(f'#!/bin/sh\ntouch {lab.world}/boxed\nexec "$@"\n')
    box.chmod(0o755)
    lab.change_site(options={"hold": True}, container=str(box))
    lab.results = code / "my results"  # the command gets it as a relative path

    def submit(target, *more, code_changes=False):
        lab.write(f"method=quick_a target={target} seeds=1 device=cpu tuned=none")
        command = [sys.executable, "-m", "bench", "sweep", lab.sweep, "launcher=slurm", f"site={lab.site}", *more]
        plugin = {"SIVIBENCH_PLUGINS": str(Path(__file__).with_name("slurm_world.py")), "TEST_WORLD": str(lab.world)}
        environment = lab.cluster.environment() | plugin | {"SIVIBENCH_RESULTS": "my results"}
        return subprocess.run(command, cwd=code, env=environment, capture_output=True, text=True)

    assert submit("banana", "launcher.snapshot=true").returncode == 0
    frozen = lab.last()
    assert submit("multimodal").returncode == 0
    with open(code / "methods" / "gaussian.py", "a") as stream:
        stream.write("# changed\n")
    refused = submit("x_shaped", "launcher.snapshot=true")
    assert refused.returncode == 2 and "commit first" in refused.stderr
    for job in (*frozen.jobs, *lab.last().jobs):
        lab.cluster.call("scontrol", "release", job)
    lab.settle()
    assert (lab.world / "boxed").exists() and len(lab.records()) == 2, lab.logs()
    events = [e for path in lab.results.glob("artifacts/sweeps/lab/*/journal/*") for e in read_journal(path)]
    assert {(e["git"], e["drifted"]) for e in events if e["event"] == "start"} == {(sha, False), (sha, True)}
    sources = {record["target"]: record["env"]["source"] for record in Store(lab.results).records()}
    assert sources["banana"] == frozen.source != sources["multimodal"]
    assert "warning: the code is not the one submitted" in lab.logs()
    assert "1 jobs started with other code" in lab.bench("status").stderr


def test_a_requeued_job_goes_on_in_the_same_wandb_run(lab):
    lab.write(f"{DOZING} train.iterations=400 eval.curve_points=50 seeds=2")
    with Server() as server:
        lab.submit("wandb.mode=online", "wandb.wait=240", TEST_NAP=1, **server.environment)
        lab.wait(lambda: (lab.world / "dozed").exists())
        [job] = lab.last().jobs
        lab.warn(job)
        (lab.world / "awake").touch()
        lab.settle()
    assert set(lab.records().values()) == {"done"} and set(server.runs) == set(lab.records()), lab.logs()
    for record in Store(lab.results).records():
        run = server.runs[record["run_id"]]
        lines = [(row["_step"], row["metric/doze"]) for row in run.history if "metric/doze" in row]
        curve = record["curve"]["metrics"]["doze"]
        assert lines == list(zip(curve["step"], curve["value"], strict=True)) and run.exits[-1] == 0


def test_a_papers_table_is_submitted_and_compared_when_its_runs_have_ended(lab):
    table = ["reproduce", "sivi-nb", "--seeds", "2", "--budget", "0.002", "device=cpu"]
    told = lab.bench(*table, "launcher=slurm", f"site={lab.site}")
    assert told.returncode == 0 and "submitted 4 runs as 2 jobs: " in told.stdout, told.stderr + told.stdout
    assert "measures and compares what has ended" in told.stdout and "not run" in told.stdout
    lab.settle()
    rows = json.loads(lab.bench("status", "sivi-nb", "--json").stdout)
    assert {(row["method"], row["done"]) for row in rows} == {("sivi", 2), ("meanfield", 2)}, lab.logs()
    (result,) = json.loads(lab.bench(*table, "--jobs", "1", "--json").stdout)
    assert [len(cell["values"]) for cell in result["cells"]] == [2] * 8, result["cells"]
    assert len(lab.records()) == 4


def test_torch_distributed_finds_the_other_node(cluster):
    command = ["srun", "-N2", "--ntasks-per-node=1", sys.executable, "-m", "bench.distributed"]
    done = subprocess.run(command, env=cluster.environment(), cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [
        "process 0 of 2 on n1: sum 3",
        "process 1 of 2 on n2: sum 3",
    ]


def test_plain_hydra_reaches_the_same_execute(lab, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    line = "method=quick_a target=banana,multimodal seed=range(2) device=cpu tuned=none".split()
    launcher = ["hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=5", f"hydra.sweep.dir={tmp_path}/multirun"]
    plugin = {"SIVIBENCH_PLUGINS": str(Path(__file__).with_name("slurm_world.py")), "SIVIBENCH_RESULTS": lab.results}
    environment = lab.cluster.environment() | {key: str(value) for key, value in plugin.items()}
    command = [sys.executable, "-m", "bench.multirun", "-m", *line, *launcher]
    process = subprocess.Popen(
        command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:  # without accounting submitit asks ever more rarely: the records are what counts
        lab.wait(lambda: len(Store(lab.results).files()) == 4 and not lab.queue())
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert [(r["target"], r["seed"]) for r in Store(lab.results).records()] == [
        (target, seed) for target in ("banana", "multimodal") for seed in (0, 1)
    ]


def test_accounting_knows_what_the_controller_has_forgotten(tmp_path, monkeypatch):
    lacking = missing_programs("slurmdbd", "mariadbd", "sacct")
    if lacking:
        pytest.skip(f"programs of SLURM's accounting are missing: {', '.join(lacking)}")
    forgetful = tmp_path / "scontrol"
    forgetful.write_text("#!/bin/sh\necho slurm_load_jobs error: Invalid job id specified >&2\nexit 1\n")
    forgetful.chmod(0o755)
    with Cluster(settings=Settings(accounting=True)) as cluster:
        for more in (["--wrap", "kill -9 $$"], ["--array=0-1", "--wrap", "exit $SLURM_ARRAY_TASK_ID"]):
            cluster.call("sbatch", "-o", "/dev/null", *more)
        monkeypatch.setenv("SLURM_CONF", cluster.environment()["SLURM_CONF"])
        monkeypatch.setenv("PATH", f"{tmp_path}:{cluster.environment()['PATH']}")
        deadline = time.monotonic() + PATIENCE
        while len(found := ask(["1", "2_0", "2_1", "9"]).jobs) < 3 or any(state.live for state in found.values()):
            assert time.monotonic() < deadline, found
            time.sleep(0.5)
    assert {job: (state.state, state.reason) for job, state in sorted(found.items())} == {
        "1": ("FAILED", "killed by SIGKILL (memory, or somebody)"),
        "2_0": ("COMPLETED", ""),
        "2_1": ("FAILED", "ended with exit code 1"),
    }


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_cluster_is_torn_down_however_it_ends(cluster, number, tmp_path):
    told = tmp_path / "told"
    command = ["-m", "slurm.testcluster", "run", "bash", "-c", f"echo $SLURM_CONF > {told}; srun sleep 60"]
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored by what runs in the background
    )
    deadline = time.monotonic() + 60
    while not (told.exists() and told.read_text().strip()) and time.monotonic() < deadline:
        time.sleep(0.05)
    conf = Path(told.read_text().strip())
    time.sleep(0.5)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    process.wait(timeout=60)
    while (conf.exists() or _using(conf)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not conf.exists() and not _using(conf)


def _using(conf: Path) -> list[int]:
    from slurm.testcluster.processes import alive, carrying, working_in

    found = [*carrying(SLURM_CONF=str(conf)), *working_in(conf.parents[1])]
    return [pid for pid in found if alive(pid)]
