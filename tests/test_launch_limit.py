"""A job that is warned knows a time limit from a preemption."""

from __future__ import annotations

import logging
import signal
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

import bench.job
from bench.claims import claim
from bench.config import compose
from bench.fit.interrupt import Interrupted
from bench.launch import worker
from bench.launch.group import Group, Job
from bench.launch.journal import Journal
from bench.store import Store
from stubs import record_of

START, MINUTES, AHEAD = 1_700_000_000, 10, 120
WARNING = 60 * MINUTES - AHEAD - 60  # SLURM looks at time limits once a minute, so it may warn a minute early
SAYS = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_START_TIME": str(START),
    "SLURM_JOB_END_TIME": str(START + 60 * MINUTES),
}


@pytest.fixture
def why(tmp_path, monkeypatch):
    """Why a job says it stops: SLURM tells what is named; the work begins and the warning comes so long after START."""

    def stop(told: tuple[str, ...], begins: int, warned: int) -> str:
        clock = SimpleNamespace(time=lambda: START + begins)

        def warn():
            clock.time = lambda: START + warned
            raise Interrupted(signal.SIGUSR2)

        for name in (*SAYS, "SLURM_PROCID", "SLURM_NTASKS"):
            monkeypatch.delenv(name, raising=False)
        for name in told:
            monkeypatch.setenv(name, SAYS[name])
        monkeypatch.setattr(bench.job, "time", clock)
        monkeypatch.setattr(worker, "time", clock)
        monkeypatch.setattr(worker, "discover", warn)
        monkeypatch.setattr(worker, "requeue", lambda: None)
        monkeypatch.setattr(worker, "log", logging.getLogger("sivibench.job"))
        with pytest.raises(SystemExit):
            worker.Work()(Job([], str(tmp_path), MINUTES, AHEAD, 20, None, ""))
        journal = Journal(tmp_path)
        [event] = journal.events("requeued")
        assert bool(journal.events("timeout")) == (event["reason"] == "time limit")
        journal.path.unlink()
        return event["reason"]

    return stop


def answer(monkeypatch, text: str) -> None:
    """A ``scontrol`` that says this."""
    run = SimpleNamespace(run=lambda *arguments, **keys: SimpleNamespace(stdout=text), TimeoutExpired=TimeoutError)
    monkeypatch.setattr(bench.job, "subprocess", run)


@pytest.mark.parametrize("imports", [0, 10, 30])
@pytest.mark.parametrize("told", [["START_TIME", "END_TIME"], ["START_TIME"], ["END_TIME"], ["ID"]])
def test_a_warning_a_minute_early_is_one_of_the_time_limit_however_long_imports_take(why, monkeypatch, told, imports):
    said = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(START))
    # A preemption brings EndTime forward.
    answer(monkeypatch, f"JobId=7 SubmitTime=2020-01-01T00:00:00 StartTime={said} EndTime={said} Deadline=N/A\n")
    names = tuple(f"SLURM_JOB_{name}" for name in told)
    assert why(names, imports, WARNING) == "time limit"
    assert why(names, imports, 300) == "preemption"


def test_where_slurm_does_not_tell_the_time_is_counted_from_where_the_work_begins(why, monkeypatch):
    answer(monkeypatch, "JobId=7 StartTime=Unknown\n")
    for told in ((), ("SLURM_JOB_ID",)):
        assert why(told, 0, WARNING) == "time limit" and why(told, 0, 300) == "preemption"
        assert why(told, 30, WARNING + 30) == "time limit"


def test_a_journal_that_cannot_be_written_stops_no_job(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("sivibench"), "propagate", True)
    (tmp_path / "journal").write_text("in the way")
    Journal(tmp_path).write("requeue asked", reason="preemption")
    [record] = caplog.records
    assert record.levelname == "WARNING" and "'requeue asked' is not noted there" in record.getMessage()


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    """A job of two batched runs that is out of time before it has begun anything, in its restart of this number."""
    line = ["method=meanfield", "target=banana", "device=cpu", "seeds=2"]
    configs = (replace(compose([*line, f"train.iterations={n}"]), results=str(tmp_path)) for n in (1, 2))
    groups = [Group(config, config.config_id) for config in configs]

    def warn():
        raise Interrupted(signal.SIGUSR2)

    monkeypatch.setattr(worker, "discover", warn)
    monkeypatch.setattr(worker, "requeue", lambda: None)
    monkeypatch.setattr(worker, "log", logging.getLogger("sivibench.job"))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_END_TIME", "1")

    def stop(restart: int, timeouts: int) -> None:
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart))
        worker.Work()(Job(groups, str(tmp_path), MINUTES, AHEAD, timeouts, None, ""))

    return stop, [group.config for group in groups], Store(tmp_path)


def statuses(store: Store) -> set[tuple[str, int, str]]:
    return {(record["config_id"], record["seed"], record["status"]) for record in store.records()}


def test_a_job_whose_imports_take_all_its_time_records_what_it_was_to_begin_and_goes_on(stopped):
    stop, (first, second), store = stopped
    with pytest.raises(SystemExit):
        stop(0, timeouts=0)
    assert statuses(store) == {(first.config_id, seed, "timeout") for seed in (0, 1)}
    with pytest.raises(worker.JobFailed, match="out of time 1 times"):
        stop(1, timeouts=0)
    assert statuses(store) == {(config.config_id, seed, "timeout") for config in (first, second) for seed in (0, 1)}


def test_time_limits_are_counted_for_the_runs_that_were_on(stopped):
    """A pack needs many time limits; each of its runs may have as many as are allowed."""
    stop, (first, second), store = stopped
    with pytest.raises(SystemExit):
        stop(0, timeouts=1)
    for seed in (0, 1):
        store.put(record_of(first, seed))
    with pytest.raises(SystemExit):
        stop(1, timeouts=1)
    assert {status for _, _, status in statuses(store)} == {"done"}
    with pytest.raises(worker.JobFailed, match="out of time 2 times"):
        stop(2, timeouts=1)
    assert {found for found in statuses(store) if found[0] == second.config_id} == {
        (second.config_id, seed, "timeout") for seed in (0, 1)
    }


def test_runs_that_another_process_holds_are_not_given_up(stopped):
    stop, (first, _), store = stopped
    with claim(store.claims, [first.run_id(1)]), pytest.raises(SystemExit):
        stop(0, timeouts=0)
    assert statuses(store) == {(first.config_id, 0, "timeout")}


def test_a_record_that_cannot_be_read_does_not_keep_the_job_from_going_on(stopped):
    stop, (first, second), store = stopped
    store.put(record_of(first, 0)).write_text("{")
    with pytest.raises(SystemExit):
        stop(0, timeouts=1)
    with pytest.raises(worker.JobFailed, match="out of time 2 times"):  # of the second, which is what would be next
        stop(1, timeouts=1)
    assert [store.get(second.run_id(seed), "banana", "meanfield")["status"] for seed in (0, 1)] == ["timeout"] * 2
