"""Sweeps: expansion, what is left out, processes that crash or are interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench import claims
from bench.config import CONF, compose
from bench.errors import UserError
from bench.plan.cells import make_plan, refresh
from bench.plan.expand import load_sweep, sweep_of
from bench.store import Store
from bench.sweep import run_sweep
from bench.sweep.pool import run_cells
from bench.sweep.run import LOCAL, Place, run_plan
from stubs import fit_done, record_of, task_done, task_failing, task_killed_on_other, task_long

pytestmark = pytest.mark.usefixtures("stub_registry")

BOTH = "method=stub_plain target=stub_gauss,stub_other seeds=2"


@pytest.fixture
def write(tmp_path):
    """Writes a sweep file and returns its path."""

    def write(*lines: str, **keys: object) -> str:
        path = tmp_path / "my.yaml"
        body = "".join(f"  - {line}\n" for line in lines)
        path.write_text(f"overrides:\n{body}" + "".join(f"{key}: {value}\n" for key, value in keys.items()))
        return str(path)

    return write


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results"


def pairs(plan):
    return [(cell.method, cell.target) for cell in plan.cells]


def test_lines_are_expanded_with_hydras_grammar(write, results):
    plan = make_plan(
        write("method=glob(stub_p*) target=glob(stub_*) method.lr=0.1,0.2 seeds=range(1,3)"), results=results
    )
    assert pairs(plan) == [("stub_plain", "stub_gauss")] * 2 + [("stub_plain", "stub_other")] * 2
    assert {cell.config.method["lr"] for cell in plan.cells} == {0.1, 0.2}
    assert all(cell.config.seeds == [0, 1] for cell in plan.cells)  # seeds of equal configurations are united


def test_a_later_line_refines_and_the_command_line_wins(write, results):
    name = write(BOTH, "method=stub_plain target=stub_other seeds=1 train.iterations=7")
    plan = make_plan(name, results=results)
    assert [cell.config.train["iterations"] for cell in plan.cells] == [10000, 7]
    assert [len(cell.config.seeds) for cell in plan.cells] == [2, 1]
    plan = make_plan(name, ["train.iterations=3", "target=stub_gauss"], results)
    assert pairs(plan) == [("stub_plain", "stub_gauss")]
    assert plan.cells[0].config.train["iterations"] == 3


def test_lines_add_cells_where_the_file_says_so(write, results):
    same = "method=stub_plain target=stub_other seeds=1 train.iterations=7"
    plan = make_plan(write(BOTH, same, same, replace="false"), results=results)
    assert [cell.config.train["iterations"] for cell in plan.cells] == [10000, 10000, 7]
    more = "method=stub_plain target=stub_other seeds=[1,5]"
    plan = make_plan(write(BOTH, more, replace="false"), results=results)
    assert [cell.config.seeds for cell in plan.cells] == [[0, 1], [0, 1, 5]]


def test_an_exclude_pattern_that_can_name_no_cell_is_refused(write):
    with pytest.raises(UserError, match="names no cell"):
        load_sweep(write("method=stub_plain target=stub_gauss", exclude="{stub_plain x stub_gauss: slow}"))


def test_what_is_excluded_has_a_reason(write):
    with pytest.raises(UserError, match="cannot read the sweep") as told:
        load_sweep(write("method=stub_plain target=stub_gauss", exclude='["*/stub_gauss"]'))
    assert "method/target: why" in str(told.value)


def test_cells_that_do_not_fit_are_listed_and_excluded_ones_are_not(write, results):
    name = write("method=stub_plain,stub_hungry target=stub_gauss,stub_other", exclude='{"*/stub_other": slow}')
    plan = make_plan(name, results=results)
    assert pairs(plan) == [("stub_plain", "stub_gauss")]
    [(method, target, reason)] = plan.skipped
    assert (method, target) == ("stub_hungry", "stub_gauss") and "needs noised" in reason


@pytest.mark.parametrize("error", [UserError("no data"), ValueError("width must be positive")])
def test_a_target_that_cannot_be_had_stops_neither_the_plan_nor_the_other_cells(write, results, monkeypatch, error):
    from bench.plan import cells as module

    def build(config):
        if config.target["name"] == "stub_other":
            raise error
        return original(config)

    original = module.build_target
    monkeypatch.setattr(module, "build_target", build)
    assert pairs(make_plan(write(BOTH), results=results)) == [
        ("stub_plain", "stub_gauss"),
        ("stub_plain", "stub_other"),
    ]


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("method=stub_plain,nope target=stub_gauss", "unknown method 'nope'"),
        ("method=stub_plain target=stub_gauss method.nope=1", "unknown key 'method.nope'"),
        ("method=glob(zzz*) target=stub_gauss", "matches nothing"),
        ("method=stub_plain target", "cannot read the override 'target'"),
    ],
)
def test_a_mistake_fails_before_anything_runs(write, results, line, word):
    with pytest.raises(UserError, match=word.replace("(", r"\(")):
        run_sweep(write(BOTH, line), results=results, task=task_done)
    assert not results.exists()


def test_mistakes_in_the_file(write, tmp_path):
    with pytest.raises(UserError, match="unknown sweep 'nope'.*\n.*demo"):
        make_plan("nope")
    with pytest.raises(UserError, match="cannot read the sweep"):
        make_plan(write(BOTH, unknown_key=1))
    path = write(BOTH, "method=stub_plain target='stub_gauss")
    with pytest.raises(UserError, match=rf"line 2 of the overrides of the sweep {path}: no closing quotation in"):
        make_plan(path)
    with pytest.raises(UserError, match="no closing quotation"):
        make_plan(sweep_of(["target='stub_gauss"]))
    (tmp_path / "bad.yaml").write_text("overrides: [")
    with pytest.raises(UserError, match="cannot read the sweep"):
        make_plan(str(tmp_path / "bad.yaml"))


def test_a_sweep_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "bad.yaml").write_bytes(b"title: caf\xe9\n")
    with pytest.raises(UserError, match="cannot read the sweep"):
        load_sweep(str(tmp_path / "bad.yaml"))


def test_retry_may_be_said_in_either_way(write, results):
    record = record_of(compose(["method=stub_plain", "target=stub_gauss"]), 0, status="failed")
    Store(results).put(record)
    line = "method=stub_plain target=stub_gauss seeds=1"
    assert [cell.todo() for cell in make_plan(sweep_of([line]), results=results).cells] == [[]]
    assert [cell.todo() for cell in make_plan(sweep_of([f"{line} retry=true"]), results=results).cells] == [[0]]
    assert [cell.todo(retry=True) for cell in make_plan(sweep_of([line]), results=results).cells] == [[0]]


@pytest.mark.parametrize("text", ["launcher=slurm", "launcher.pack=2", "site=mine"])
def test_a_line_does_not_say_where_to_run(write, text):
    with pytest.raises(UserError, match="say what to run, not where"):
        make_plan(write(f"{BOTH} {text}"))


@pytest.mark.parametrize("name", [path.stem for path in (CONF / "sweep").glob("*.yaml")])
def test_shipped_sweeps_are_well_formed(name):
    assert load_sweep(name).overrides


def test_only_what_is_missing_runs(write, results):
    config = compose(["method=stub_plain", "target=stub_gauss", "seeds=2"])
    for record in fit_done(config, [0, 1], Store(results)):
        Store(results).put(record)
    lines: list[str] = []
    dry = run_sweep(write(BOTH), results=results, dry_run=True, tell=lines.append, task=task_done)
    assert dry.results == [] and not dry.failed
    assert "2 cells, 4 runs; 2 on record, 2 to do" in lines[0]
    first = run_sweep(write(BOTH), results=results, jobs=2, tell=lines.append, task=task_done)
    assert [(r.cell.target, r.statuses) for r in first.results] == [("stub_other", {0: "done", 1: "done"})]
    assert "[1/1] stub_plain x stub_other: 2 done" in lines[-1] and "0 left" in lines[-1]
    assert "s (fit 1.0 s; elapsed 0:" in lines[-1]
    again = run_sweep(write(BOTH), results=results, tell=lines.append, task=task_done)
    assert again.results == [] and not again.failed
    assert len(Store(results).files()) == 4
    # what is told of the cells is how they stand at the end
    for outcome in (first, again):
        assert [cell["done"] for cell in outcome.as_dict()["cells"]] == [2, 2]


def test_a_run_that_is_done_is_not_running_while_a_metric_is_added_to_it(write, results):
    store, config = Store(results), compose(["method=stub_plain", "target=stub_gauss", "seeds=2"])
    store.put(record_of(config, 0))
    store.put(record_of(config, 1, "failed"))
    plan = make_plan(write("method=stub_plain target=stub_gauss seeds=2"), results=results)
    with claims.claim(store.claims, [config.run_id(0), config.run_id(1)], {}):
        assert {k: n for k, n in refresh(plan).cells[0].counts().items() if n} == {"done": 1, "running": 1}
    assert {k: n for k, n in refresh(plan).cells[0].counts().items() if n} == {"done": 1, "failed": 1}


def test_batches_that_are_on_record_start_no_process(write, results):
    config, seen = compose(["method=stub_plain", "target=stub_gauss", "seeds=4"]), []
    for record in fit_done(config, [0, 1], Store(results)):
        Store(results).put(record)

    def task(config, *, retry=False):
        seen.append(config.seeds)
        return fit_done(config, config.seeds, Store(results))

    plan = make_plan(write("method=stub_plain target=stub_gauss seeds=4"), results=results)
    run_plan(plan, Place(LOCAL | {"name": "debug", "seeds": 2}), tell=lambda text: None, task=task)
    assert seen == [[2, 3]]


@pytest.mark.parametrize("text", ["5", "[1, 2]", "word"])
def test_a_file_that_is_no_sweep_is_refused(tmp_path, text):
    path = tmp_path / "my.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match="cannot read the sweep"):
        load_sweep(str(path))


def test_a_killed_child_costs_one_cell(write, results):
    lines: list[str] = []
    outcome = run_sweep(write(BOTH), results=results, jobs=1, tell=lines.append, task=task_killed_on_other)
    assert outcome.failed
    error = {result.cell.target: result.error for result in outcome.results}
    assert error["stub_gauss"] is None and "was killed by SIGKILL" in error["stub_other"]
    assert len(Store(results).files()) == 2
    repeated = run_sweep(write(BOTH), results=results, jobs=1, tell=lines.append, task=task_done)
    assert not repeated.failed and len(Store(results).files()) == 4


def test_a_child_may_hand_back_more_than_a_pipe_holds(write, results):
    cells = make_plan(write(BOTH), results=results).cells
    before = signal.signal(signal.SIGALRM, lambda number, frame: pytest.fail("no result"))
    signal.alarm(120)
    try:
        found = list(run_cells(cells, jobs=2, retry=False, logs=results / "logs", task=task_long))
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert [(result.error, len(result.statuses)) for result in found] == [(None, 1000)] * 2


def test_a_failure_is_reported_and_stays_reported(write, results):
    lines: list[str] = []
    outcome = run_sweep(write(BOTH), results=results, jobs=2, tell=lines.append, task=task_failing)
    assert outcome.failed and sum("ValueError: no luck" in line for line in lines) == 2
    kept = run_sweep(write(BOTH), results=results, tell=lines.append, task=task_done)
    assert kept.failed and kept.results == []
    assert not run_sweep(write(BOTH), results=results, retry=True, tell=lines.append, task=task_done).failed


def test_the_report_holds_the_records_of_the_sweep_only(write, tmp_path, monkeypatch):
    import bench.report

    monkeypatch.chdir(tmp_path)
    seen = {}

    def write_report(records, folder, title, about):
        seen.update(records=records, folder=folder, title=title)
        return {"html": folder / "report.html"}

    monkeypatch.setattr(bench.report, "write_report", write_report)
    Store("mine").put(record_of(compose(["method=stub_plain", "target=stub_gauss", "train.iterations=1"]), 0))
    outcome = run_sweep(write(BOTH, results="mine", report="true", title="Mine"), jobs=2, task=task_done)
    assert outcome.report == Path("mine/report.html")
    assert (seen["folder"], seen["title"], len(seen["records"])) == (Path("mine"), "Mine", 4)


SLOW = """
import sys, time
sys.path.insert(0, {tests!r})
def task(config, retry=False):
    open({marker!r}, "a").close()
    time.sleep(60)
if __name__ == "__main__":
    from stubs import add_stubs
    from bench.sweep import run_sweep
    add_stubs()
    try:
        run_sweep({name!r}, results={results!r}, jobs=2, task=task)
    except KeyboardInterrupt:
        sys.exit(130)
"""


def test_ctrl_c_stops_the_children_and_says_how_to_go_on(write, tmp_path, results):
    marker, script = tmp_path / "started", tmp_path / "script.py"
    settings = {
        "tests": str(Path(__file__).parent),
        "marker": str(marker),
        "name": write(BOTH),
        "results": str(results),
    }
    script.write_text(SLOW.format(**settings))
    root = str(Path(__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": root},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored by what runs in the background
    )
    deadline = time.monotonic() + 300
    while not marker.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "interrupted: 0 of 2 cells finished; repeat the command to continue" in out
