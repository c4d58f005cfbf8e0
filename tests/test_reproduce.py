"""Tables of papers: reading, running and printing them."""

from __future__ import annotations

import inspect
import json
import math
from dataclasses import replace

import pytest

import bench.cli.reproduce
import bench.sweep.run
from bench import registry
from bench.cli import main
from bench.errors import UserError
from bench.metrics.base import Metric
from bench.metrics.images.digits import FDDigits
from bench.metrics.moments import MomentError
from bench.plan.cells import make_plan
from bench.report import published
from bench.reproduce import render
from bench.reproduce.compare import Planned, relative_times
from bench.reproduce.run import as_sweep, plan_cells, reproduce, unique
from bench.reproduce.tables import CellSpec, load_table, merged, names
from bench.reproduce.verdict import Verdict
from bench.store import Store
from bench.sweep.pool import Result
from stubs import fit_never, task_done

TABLE = """
title: A table
paper: Nobody 1999, Table 7
seeds: 3
notes: [A note.]
overrides: [target=stub_gauss, train.iterations=100]
columns:
  left: {metric: stub}
  right: {metric: stub, overrides: [target=stub_other]}
  time: {metric: seconds_per_iteration, relative_to: Plain}
rows:
  Plain: {overrides: [method=stub_plain], published: [ksivi-004, ksivi-058, ksivi-049], published_iterations: 2}
  Slow: {overrides: [method=stub_plain, method.lr=2], published: {left: ksivi-001, time: ksivi-052}, note: slower}
  Hungry: {overrides: [method=stub_hungry]}
  Other: {columns: [left], overrides: [method=stub_plain, method.lr=4], published: [ksivi-004], switch: another rate}
  Later: {overrides: [method=not_yet], published: [ksivi-002, null, null]}
  Never: {absent: not ours}
cells:
  - {row: Slow, column: left, overrides: [method.lr=3], doubt: who knows}
"""


class Stub(Metric):
    """A metric whose protocol is that of the records of ``stubs.record_of``."""


@pytest.fixture
def table(tmp_path, stub_registry):
    registry.register("metric", "stub", source="test")(Stub)
    (tmp_path / "one.yaml").write_text(TABLE)
    return load_table("one", tmp_path)


@pytest.fixture
def here(monkeypatch):
    """Cells run in this process: starting one for each would be most of the time."""
    monkeypatch.setattr(bench.sweep.run, "run_cells", in_this_process)


def in_this_process(cells, *, jobs, retry, logs, task):
    for cell in cells:
        yield Result(cell, {record["seed"]: record["status"] for record in task(cell.config, retry=retry)}, 0.0)


def run(table, tmp_path, **keys):
    lines: list[str] = []
    result = reproduce(table, results=tmp_path / "results", jobs=1, tell=lines.append, task=task_done, **keys)
    return result, {(c.spec.row, c.spec.column): c for c in result.cells}, lines


# ---- the rule


# ---- reading tables


def test_every_table_of_the_suite_can_be_read_and_its_numbers_are_those_of_its_columns() -> None:
    numbers = published.by_id()
    known = registry.entries("metric")
    assert len(names()) >= 14
    taken: dict[str, set[str]] = {}
    for name in names():
        table = load_table(name)
        for cell in table.cells:
            if cell.published is None:
                continue
            row = numbers[cell.published]
            assert row["paper"].upper() in (table.paper.split(",")[0].upper(), "STATCOMP"), (name, cell)
            assert (row["metric"] == "time_s") == (cell.metric == "seconds_per_iteration"), (name, cell)
            overrides = dict(o.split("=", 1) for o in cell.overrides)
            assert overrides.get("target", row["target"]) == row["target"], (name, cell)
            if cell.metric in known:
                declared = getattr(known[cell.metric].obj, "published_as", ())
                same = [p for p in declared if p[0] == row["metric"]]
                assert not same or any(p[1] == row["protocol"] for p in same), (name, cell)
            if row["method"] not in cell.row:  # SM is SIVI-SM, KSIVI rows carry their variant
                taken.setdefault(cell.row, set()).add(row["method"])
        judged = {cell.published for cell in table.cells if not cell.switch}
        assert all(cell.published in judged for cell in table.cells if cell.switch), name
    assert all(len(found) == 1 for found in taken.values()), taken


def test_the_critic_of_pvis_comparison_has_the_score_added_to_it() -> None:
    for name in ("pvi-table1", "pvi-table2"):  # its g = s_p + f is the TransTrick with a weight that stays 1
        cells = [cell for cell in load_table(name).cells if cell.row == "SM"]
        assert cells and all({"method=sivism_trick", "method.trick_rate=1"} <= set(cell.overrides) for cell in cells)


def test_later_overrides_win(table) -> None:
    assert merged(["a=1", "b=2", "a=3"]) == ("a=3", "b=2")
    cells = {(c.row, c.column): c for c in table.cells}
    assert "method.lr=3" in cells["Slow", "left"].overrides and "method.lr=2" in cells["Slow", "right"].overrides
    assert "target=stub_other" in cells["Plain", "right"].overrides
    assert cells["Slow", "left"].doubt == "who knows" and cells["Slow", "right"].published is None


def test_a_row_may_have_some_of_the_columns_only(tmp_path, stub_registry) -> None:
    registry.register("metric", "stub", source="test")(Stub)
    slow = "overrides: [method=stub_plain, method.lr=2], published: {left: ksivi-001, time: ksivi-052}"
    (tmp_path / "one.yaml").write_text(
        TABLE.replace(slow, "columns: [time, left], overrides: [method=stub_plain], published: [ksivi-052, ksivi-001]")
    )
    table = load_table("one", tmp_path)
    cells = {(c.row, c.column): c for c in table.cells}
    assert [column for row, column in cells if row == "Slow"] == ["time", "left"]
    assert cells["Slow", "left"].published == "ksivi-001" and cells["Slow", "time"].published == "ksivi-052"
    result = reproduce(table, results=tmp_path / "none", only_records=True)
    line = next(line for line in render.latex(result).splitlines() if line.startswith("Slow"))
    assert line.split("&")[2].strip() == ""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Never: {", "Never: {columns: [middle], ", "unknown columns"),
        ("Slow: {", "Slow: {columns: [right], published: null, ", "no cell"),
        ("title:", "tittle:", "unknown keys"),
        ("ksivi-001", "ksivi-999", "ksivi-999"),
        ("[ksivi-002, null, null]", "[ksivi-002]", "1 published ids for 3 columns"),
        ("row: Slow,", "row: Fast,", "no cell"),
        ("title: A table", "title: [", "cannot read"),
        ("paper: Nobody 1999, Table 7", "", "paper"),
    ],
)
def test_mistakes_in_a_table_are_named(tmp_path, old: str, new: str, message: str) -> None:
    assert old in TABLE
    (tmp_path / "bad.yaml").write_text(TABLE.replace(old, new, 1))
    with pytest.raises(UserError, match=message):
        load_table("bad", tmp_path)
    with pytest.raises(UserError, match="choose from: bad, all"):
        load_table("none", tmp_path)


# ---- running them


def test_what_cannot_run_says_why(table) -> None:
    planned = {(p.spec.row, p.spec.column): p for p in plan_cells(table, 1.0)}
    assert "needs noised" in planned["Hungry", "left"].reason
    assert "not in the suite: unknown method 'not_yet'" in planned["Later", "left"].reason
    assert planned["Never", "time"].reason == "not ours"
    assert planned["Plain", "left"].config.train["iterations"] == 100


def test_a_table_is_run_once_and_then_read(table, here, tmp_path) -> None:
    result, cells, lines = run(table, tmp_path)
    assert not result.failed and "5 cells, 15 runs; 0 on record, 15 to do" in lines[0]
    # the stub's values are 0.5, 1.5, 2.5: their mean 1.5 is 1.055 from 2.555, within two standard deviations
    left = cells["Plain", "left"]
    assert left.verdict is Verdict.AGREES and left.values == {0: 0.5, 1: 1.5, 2: 2.5} and left.floor is None
    assert cells["Plain", "right"].verdict is Verdict.UNCLEAR  # protocol_differs in the file of numbers
    assert cells["Slow", "left"].verdict is Verdict.UNCLEAR and cells["Slow", "right"].verdict is Verdict.NO_NUMBER
    assert cells["Later", "left"].verdict is Verdict.NOT_RUN
    assert cells["Other", "left"].verdict is Verdict.NOT_JUDGED and "a switch: another rate" in render.text(result)
    again = reproduce(table, results=tmp_path / "results", only_records=True, task=fit_never)
    assert [c.values for c in again.cells] == [c.values for c in result.cells]
    assert "of 1 comparable cells with a full-budget run 1 agree" in render.summary_line([again])


def test_a_reduced_budget_is_another_run_without_a_verdict(table, here, tmp_path) -> None:
    result, cells, _ = run(table, tmp_path, budget=0.1)
    assert cells["Plain", "left"].verdict is Verdict.REDUCED
    assert "at 0.1 of the paper's iterations" in render.text(result)
    full = reproduce(table, results=tmp_path / "results", only_records=True)
    assert {cell.spec.column for cell in full.cells if cell.values} == {"time"}  # which is the same at any length


def test_a_reduced_budget_shortens_every_phase_of_a_fit() -> None:
    table = load_table("aisivi-table2")
    table = replace(table, cells=tuple(cell for cell in table.cells if cell.column == "log ML"))
    cells = {cell.spec.row: cell.config for cell in plan_cells(table, 0.1) if cell.config}
    full = {cell.spec.row: cell.config for cell in plan_cells(table, 1.0) if cell.config}
    assert full["AISIVI"].method["pretrain"] > 0.1 * full["AISIVI"].train["iterations"]
    for key, values in (("pretrain", "method"), ("iterations", "train")):
        before, after = getattr(full["AISIVI"], values)[key], getattr(cells["AISIVI"], values)[key]
        assert after == round(0.1 * before)


def test_phases_are_arguments_of_their_methods() -> None:
    for entry in registry.entries("method").values():
        assert set(entry.obj.phases) <= set(inspect.signature(entry.obj).parameters), entry.name


def test_values_with_what_they_were_measured_against_are_taken() -> None:
    """A record's protocol names weights and images besides the metric's arguments; other arguments are another one."""
    metric = FDDigits()
    taken = {**metric.protocol(), "features": {"network": "digits", "sha256": "0"}, "n_images": 1797}
    assert metric.measured(taken)
    assert not metric.measured({**taken, "n": 1000}) and not metric.measured({**taken, "version": 7})
    assert MomentError().measured(MomentError().protocol())


def test_dry_runs_run_nothing(table, here, tmp_path) -> None:
    result, cells, lines = run(table, tmp_path, dry_run=True)
    assert not (tmp_path / "results" / "runs").exists() and cells["Plain", "left"].verdict is Verdict.NOT_RUN
    assert any("missing" in line for line in lines)


def test_a_dry_run_downloads_nothing_and_says_what_a_run_would(tmp_path, monkeypatch) -> None:
    def retrieve(url, **_):
        raise AssertionError(f"a dry run asked for {url}")

    monkeypatch.setattr("pooch.retrieve", retrieve)
    monkeypatch.delenv("SIVIBENCH_DATA", raising=False)
    monkeypatch.setenv("SIVIBENCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "one.yaml").write_text(
        "title: t\npaper: p\noverrides: [target=bnn_yacht]\n"
        "columns: {c: {metric: bnn_rmse}}\nrows: {r: {overrides: [method=meanfield]}}\n"
    )
    lines: list[str] = []
    result = reproduce(
        load_table("one", tmp_path), results=tmp_path / "results", dry_run=True, tell=lines.append, task=fit_never
    )
    assert lines[0] == "not here, and wanted by a run: uci/yacht.txt" and "1 cells, 10 runs" in lines[1]
    assert result.cells[0].verdict is Verdict.NOT_RUN


def test_bad_arguments(table, tmp_path) -> None:
    for keys in ({"budget": 0.0}, {"budget": 2.0}, {"budget": math.nan}, {"seeds": 0}):
        with pytest.raises(UserError):
            run(table, tmp_path, **keys)


@pytest.mark.parametrize("override", ["nonsense", "devices=cpu", "threads=many"])
def test_a_mistaken_override_is_no_reason_to_call_the_cells_absent(table, tmp_path, override: str) -> None:
    with pytest.raises(UserError, match=override.split("=")[0]):
        run(table, tmp_path, overrides=[override])


def test_times_are_relative_and_only_within_one_machine(table, here, tmp_path) -> None:
    _, cells, _ = run(table, tmp_path)
    time = cells["Slow", "time"]
    assert list(time.values.values()) == pytest.approx([1.0]) and time.verdict is Verdict.NOT_JUDGED
    assert time.published is not None and time.published.value == pytest.approx(70.42 / (58.00 / 2))  # of an iteration

    def planned(name: str, seconds: float, device: str = "cpu") -> Planned:
        cost = {"seconds": seconds**2, "cpu_seconds": seconds, "iterations": 10}
        record = {"status": "done", "cost": cost, "env": {"device_name": name, "device": device}}
        return Planned(CellSpec("r", "c", "seconds_per_iteration", (), None), None, "", {0: record})

    assert relative_times(planned("a", 3.0), planned("a", 2.0))[0] == pytest.approx({0: 1.5})
    assert relative_times(planned("a", 3.0, "cuda"), planned("a", 2.0, "cuda"))[0] == pytest.approx({0: 2.25})
    values, why = relative_times(planned("a", 3.0), planned("b", 2.0))
    assert not values and "same machine" in why


def test_a_time_is_taken_over_the_beginning_of_a_fit_and_kept_apart(table, here, tmp_path) -> None:
    for keys in ({}, {"seeds": 5}):
        _, cells, _ = run(table, tmp_path, **keys)
        records = {folder: [*Store(tmp_path / "results" / folder).records()] for folder in (".", "times")}
        iterations = {folder: {r["config"]["train"]["iterations"] for r in found} for folder, found in records.items()}
        assert iterations == {".": {100}, "times": {2}}
        assert {r["seed"] for r in records["times"]} == {0} and len(records["times"]) == 2  # two rows, one seed each
        assert {cells[row, "time"].wanted for row in ("Plain", "Slow")} == {1}
    timed = [c for c in plan_cells(table, 1.0, results=tmp_path) if c.config and c.spec.column == "time"]
    assert all(c.config.eval["metrics"] == [] and c.config.eval["curve_points"] == 0 for c in timed)


# ---- printing them


def test_renderings(table, here, tmp_path) -> None:
    result, _, _ = run(table, tmp_path)
    text = render.text(result)
    assert "2.555 ± 0.02 (sd of 10)" in text and "agrees" in text and "* A note." in text and "3/3" in text
    assert "not in the suite" in text and "2.43" in text  # the ratio of the printed times
    latex = render.latex(result)
    assert latex.count(r"\\") == 7 and "(2.555 $\\pm$ 0.02)" in latex and r"$^\dagger$" in latex
    assert json.loads(json.dumps(render.data(result)))["progress"]["judged"] == 1
    overview = render.overview([result])
    assert "| table | cells |" in overview and "of 1 comparable cells with a full-budget run 1 agree" in overview


def test_text_outside_the_marks_stays(table, tmp_path) -> None:
    path = tmp_path / "page.md"
    render.write_between_marks(path, {"one": "first"})
    path.write_text(path.read_text() + "\nby hand\n")
    render.write_between_marks(path, {"one": "second \\1", "two": "other"})
    body = path.read_text()
    assert "first" not in body and "second \\1" in body and "by hand" in body and body.count("table:one") == 2
    assert body.index("by hand") < body.index("table:two")


def test_the_command(table, here, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(bench.cli.reproduce, "names", lambda: ["one"])
    monkeypatch.setattr(bench.cli.reproduce, "load_table", lambda name: table)
    monkeypatch.setattr(
        bench.cli.reproduce, "run_table", lambda *args, **keys: reproduce(*args, **keys, task=task_done)
    )
    results = ["--results", str(tmp_path / "results")]
    assert main(["reproduce", *results]) == 0
    assert "of 0 comparable cells" in capsys.readouterr().out
    page = tmp_path / "page.md"
    assert main(["reproduce", "one", *results, "--dry-run", "--markdown", str(page)]) == 0
    assert "nothing on record" in page.read_text() and "|" not in page.read_text()
    assert main(["reproduce", "one", *results, "--jobs", "1", "--markdown", str(page), "threads=1"]) == 0
    assert (
        "of 1 comparable cells with a full-budget run 1 agree" in capsys.readouterr().out
        and "agrees" in page.read_text()
    )
    assert main(["reproduce", "all", *results, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["table"] == "one"
    assert main(["reproduce", "all", *results, "threads=1"]) == 2
    assert "`all` runs none" in capsys.readouterr().err
    for option in (["--jobs", "0"], ["--dry-run"], ["--retry"]):
        for which in ([], ["all"]):
            assert main(["reproduce", *which, *results, *option]) == 2
            assert f"{option[0]} says how to run a table" in capsys.readouterr().err
    assert main(["reproduce", "one", *results, "--dry-run", "--jobs", "0"]) == 2
    capsys.readouterr()
    assert main(["reproduce", "one", *results, "--dry-run", "--seeds", "4"]) == 0
    shown = capsys.readouterr().out
    assert "1 missing" in shown and "agrees" in shown  # what is to do, then the table as it is
    assert main(["reproduce", "one", *results, "train.iterations=3"]) == 2
    assert "changes what the table consists of" in capsys.readouterr().err


def test_where_a_table_is_run_is_said_as_for_a_sweep(tmp_path, capsys):
    table = ["reproduce", "sivi-nb", "--results", str(tmp_path)]
    assert main([*table, "launcher=slurm", "site=x"]) == 2
    assert "unknown site 'x'" in capsys.readouterr().err
    assert main([*table, "launcher=debug", "--jobs", "1"]) == 2
    assert "--jobs 1 has no meaning with launcher=debug" in capsys.readouterr().err


def test_a_tables_cells_are_lines_of_a_sweep_that_says_the_same(tmp_path):
    """What a submission keeps, with the iterations of a cut budget: planned again it is the same runs."""
    table = load_table("aisivi-table1")  # whose methods have phases
    configs = unique([cell.config for cell in plan_cells(table, 0.1, ["device=cpu"], check=False) if cell.config])
    again = make_plan(as_sweep(table, configs, timed=False), results=tmp_path)
    planned = {cell.config.config_id: cell.config.seeds for cell in again.cells}
    assert planned == {config.config_id: config.seeds for config in configs} and len(planned) == 7


@pytest.mark.parametrize("option", ["--markdown", "--latex"])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("folder", "it is a folder"),
        ("file/x", "part of the path is a file"),
        ("/dev/null", "no ordinary file"),
        ("x" * 300, "too long"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_anything_runs(
    option, name, words, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(bench.cli.reproduce, "run_table", lambda *args, **keys: pytest.fail("it runs"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    place = str(tmp_path / name)
    for what in ([], ["all"], ["ksivi-table6"]):
        assert main(["reproduce", *what, "--results", str(tmp_path / "results"), option, place]) == 2
        captured = capsys.readouterr()
        assert f"cannot write {place}" in captured.err and words in captured.err and captured.out == ""
        assert "name another file" in captured.err


def test_the_folder_of_a_table_is_made_and_a_file_that_is_no_text_stays(table, here, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench.cli.reproduce, "load_table", lambda name: table)
    monkeypatch.setattr(
        bench.cli.reproduce, "run_table", lambda *args, **keys: reproduce(*args, **keys, task=task_done)
    )
    results = ["--results", str(tmp_path / "results"), "--jobs", "1"]
    assert main(["reproduce", "one", *results, "--latex", str(tmp_path / "new" / "x.tex")]) == 0
    assert (tmp_path / "new" / "x.tex").read_text().startswith(r"\begin{tabular}")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    assert main(["reproduce", "one", *results, "--markdown", str(tmp_path / "binary")]) == 2
    assert "holds no text" in capsys.readouterr().err and (tmp_path / "binary").read_bytes() == b"\xff\xfe"


def test_a_row_may_ask_for_fewer_seeds_than_its_table(here, tmp_path) -> None:
    text = {
        "title": "T", "paper": "P", "seeds": 4,
        "columns": {"a": {"overrides": ["target=banana"], "metric": "js_grid"}},
        "rows": {"slow": {"overrides": ["method=meanfield"], "seeds": 2}, "quick": {"overrides": ["method=fullrank"]}},
    }  # fmt: skip
    (tmp_path / "few.yaml").write_text(json.dumps(text))
    table = load_table("few", tmp_path)
    assert [len(cell.config.seeds) for cell in plan_cells(table, 1.0)] == [2, 4]
    given = reproduce(table, seeds=7, results=tmp_path / "results", only_records=True)
    assert [cell.wanted for cell in given.cells] == [7, 7]
    (tmp_path / "none.yaml").write_text(json.dumps(text | {"seeds": 0}))
    with pytest.raises(UserError, match="row quick: 0 is not a number"):
        load_table("none", tmp_path)
