"""Report of few-step samplers: what is best of what, what is never ranked, what is said when something is missing."""

from __future__ import annotations

import hashlib
import json
import random
import re

import pytest

import bench.registry
from bench import report as general
from bench.registry import Entry
from bench.report.diffusion import as_json, render_terminal, write_report
from bench.report.diffusion.published import quoted
from bench.report.diffusion.table import compare
from bench.report.table import build
from methods.base import Method
from test_report import record

TIMES = (0, 50, 800)


@pytest.fixture(autouse=True)
def components(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two trained samplers and a solver, for these tests only."""
    for name, trained in (("student", True), ("pupil", True), ("ode", False)):
        cls = type(name, (Method,), {"trained": trained, "paper_name": name.upper(), "needs": frozenset({"teacher"})})
        monkeypatch.setitem(bench.registry._ENTRIES["method"], name, Entry("method", name, cls, "", ""))


def runs(method: str, values: tuple[float, ...], nfe: int = 2, target: str = "ring", iterations: int = 50, **options):
    """One record per value of a sampler with this NFE; ``options`` enter its method's configuration."""
    found = []
    for seed, value in enumerate(values):
        made = record(method, target, seed, value, iterations=iterations)
        config = made["config"] | {"method": {"name": method, "version": 1, "nfe": nfe, **options}}
        key = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:10]
        metrics = made["metrics"] | {"nfe": {"value": float(nfe), "floor": None, "protocol": "0"}}
        made |= {"config": config, "config_id": key, "run_id": f"{key}-s{seed}", "metrics": metrics}
        made["protocols"] = made["protocols"] | {"0": {"metric": "nfe"}}
        made["cost"] = made["cost"] | {"draw_seconds_per_1000": 0.01 * nfe}
        made["env"] = made["env"] | {"operations": {"training_data": "none"}}
        found.append(made)
    return found


def lines(records, metric: str = "js_made_up"):
    """(NFE, label, kind) -> (mean, rank, setting) in the first column."""
    (sheet,) = [s for s in compare(records, (metric,)).sheets if s.metric == metric]
    return {
        (nfe, sampler.line.label, sampler.kind): (cell.row.summary.mean, cell.rank, cell.setting)
        for nfe, samplers in sheet.blocks
        for sampler in samplers
        if (cell := sampler.cells[0]) is not None and cell.row.summary is not None
    }


GOOD, FAIR, POOR = (0.10, 0.11, 0.105, 0.1), (0.2, 0.21, 0.205, 0.2), (0.5, 0.51, 0.505, 0.5)


def test_the_general_report_leaves_few_step_samplers_to_this_one(tmp_path):
    other = record("student")
    tables = build([*runs("student", GOOD), other])
    assert [r["run_id"] for r in tables.records] == [other["run_id"]] and tables.few_step == len(GOOD)
    for text in (general.render_terminal([*runs("student", GOOD), other]), *(
        path.read_text() for path in general.write_report([*runs("student", GOOD), other], tmp_path, "t").values()
        if path.suffix != ".tex"
    )):  # fmt: skip
        assert f"{len(GOOD)} runs, see" in text
    assert build(runs("student", GOOD)).few_step == 0  # nothing else: they are shown


@pytest.mark.parametrize(("grid", "times"), [("explicit", list(TIMES)), ("cosine", [])])
def test_a_solver_is_shown_at_its_best_and_on_the_grid_of_the_trained(grid, times):
    records = runs("student", FAIR, grid=grid, times=times)
    records += runs("ode", POOR, grid=grid, times=times, order=2)
    records += runs("ode", GOOD, grid="quad", times=[], order=2)
    assert lines(records) == {
        (2, "ODE", "best of 2"): (pytest.approx(0.10375), 1, "grid=quad"),
        (2, "STUDENT", "distilled, data-free"): (pytest.approx(0.20375), 2, ""),
        (2, "ODE", "on the grid of STUDENT"): (pytest.approx(0.50375), 3, ""),
    }


@pytest.mark.parametrize("more", [(), ("pupil",)])
def test_a_setting_that_two_lines_show_is_ranked_once(more):
    records = runs("ode", GOOD, grid="cosine") + runs("student", FAIR, grid="cosine")
    records += [made for method in more for made in runs(method, POOR, grid="quad")]
    found = {(label, kind): rank for (_, label, kind), (_, rank, _) in lines(records).items()}
    assert found.pop(("ODE", "best of 1")) == found.pop(("ODE", "on the grid of STUDENT")) == 1
    assert list(found.values()) == [2, 3][: len(found)]


def test_of_how_many_settings_a_value_is_the_best_is_counted_in_its_column(tmp_path):
    records = [made for grid in ("quad", "cosine", "uniform") for made in runs("ode", GOOD, grid=grid)]
    records += runs("student", FAIR) + runs("ode", FAIR, target="star", grid="quad")
    for made in records:
        if made["config"]["method"].get("grid") == "uniform":
            made["metrics"]["other"] = made["metrics"]["js_made_up"]
    assert {key[2] for key in lines(records, "other")} == {"best of 1"}
    text = render_terminal(records, ("js_made_up",))
    assert "best of 1 to 3" in text and "of 3: grid=cosine" in text and "of 1: grid=quad" in text
    for suffix, path in write_report(records, tmp_path, "t", ("js_made_up",)).items():
        page = path.read_text()
        assert "best of 1 to 3" in page and ("of 3: grid=cosine" in page) == (suffix != "tex")
    cells = as_json(records, ("js_made_up",))["metrics"][0]["cells"]
    assert {(cell["kind"], cell["problem"], cell["best_of"]) for cell in cells if cell["method"] == "ode"} == {
        ("best of 1 to 3", "ring", 3),
        ("best of 1 to 3", "star", 1),
    }


def test_a_setting_that_failed_was_one_of_those_to_choose_from():
    records = runs("ode", GOOD, grid="quad") + runs("student", FAIR) + runs("ode", GOOD, grid="cosine")
    for made in records:
        if made["config"]["method"].get("grid") == "cosine":
            made |= {"status": "failed", "metrics": {}}
    assert ("ODE", "best of 2") in {key[1:] for key in lines(records)}


def test_a_grid_counts_only_where_a_trained_sampler_has_it():
    records = runs("student", FAIR, grid="cosine", target="ring") + runs("ode", GOOD, grid="cosine", target="ring")
    records += runs("student", FAIR, grid="quad", target="star") + runs("ode", GOOD, grid="cosine", target="star")
    (sheet,) = compare(records, ("js_made_up",)).sheets
    shown = {s.kind: [c is not None and c.row.summary is not None for c in s.cells] for _, b in sheet.blocks for s in b}
    assert [c.problem.name for c in sheet.columns] == ["ring", "star"]
    assert [value for kind, value in shown.items() if kind.startswith("on the grid")] == [[True, False]]


def test_a_trained_sampler_has_a_row_per_setting_never_the_best():
    records = runs("student", GOOD, alpha=0.5) + runs("student", POOR, alpha=1.0)
    assert {key[1]: value[1] for key, value in lines(records).items()} == {
        "STUDENT (alpha=0.5)": 1,
        "STUDENT (alpha=1)": 2,
    }


def test_long_settings_become_notes():
    first, second = {"eta": [0.1] * 9, "lr": 1e-3}, {"eta": [1.0] * 9, "lr": 1e-4}
    comparison = compare(runs("student", GOOD, **first) + runs("student", POOR, **second), ("js_made_up",))
    labels = {s.line.label for _, samplers in comparison.sheets[0].blocks for s in samplers}
    assert labels == {"STUDENT (lr=0.001; A)", "STUDENT (lr=0.0001; B)"} and set(comparison.notes) == {"A", "B"}
    assert any("0.1, 0.1" in note for note in comparison.notes.values())


def test_a_long_label_keeps_its_words_and_numbers_and_is_named_by_its_letter():
    grid = {"grid": "explicit", "times": list(TIMES)}
    records = runs("student", GOOD, eta=[0.1] * 9, layer="first", alpha=0.5, **grid)
    records += runs("student", POOR, eta=[1.0] * 9, layer="second", alpha=1.0, **grid) + runs("ode", FAIR, **grid)
    records += runs("student", POOR, iterations=1, eta=[1.0] * 9, layer="third", **grid)  # untrained: owns no grid
    labels = {(label, kind) for _, label, kind in lines(records)}
    assert ("STUDENT (layer=first, alpha=0.5; A)", "distilled, data-free") in labels
    assert ("ODE", "on the grid of STUDENT (A) and STUDENT (B)") in labels


def test_one_seed_is_not_ranked_but_sorted_by_its_value():
    records = runs("ode", GOOD[:1], grid="quad") + runs("student", FAIR) + runs("pupil", POOR[:1])
    assert [(label, rank) for (_, label, _), (_, rank, _) in lines(records).items()] == [
        ("ODE", None),
        ("STUDENT", 1),
        ("PUPIL", None),
    ]
    assert "0.1000 (1 seed)" in render_terminal(records, ("js_made_up",))
    alone = render_terminal(runs("student", FAIR), ("js_made_up",))
    assert "(1 seed)" not in alone and "(1)" not in alone


def test_records_of_two_fits_of_one_teacher_say_so():
    records = runs("student", GOOD)
    for made, weights in zip(records, ("aaaaaaaa", "aaaaaaaa", "bbbbbbbb", "bbbbbbbb"), strict=True):
        made["config"]["target"]["teacher"] = "t-s0"
        made["env"] = made["env"] | {"operations": {"teacher": f"t-s0 sha256 {weights}"}}
    (column,) = compare(records, ("js_made_up",)).sheets[0].columns
    assert column.teacher == "t-s0 (fits aaaaaa, bbbbbb)"
    (column,) = compare(records[:2], ("js_made_up",)).sheets[0].columns
    assert column.teacher == "t-s0"


def test_a_teacher_is_trained_on_data(monkeypatch):
    monkeypatch.setattr(bench.registry._ENTRIES["method"]["pupil"].obj, "needs", frozenset({"truth"}))
    assert {kind for _, _, kind in lines(runs("pupil", GOOD))} == {"trained on data"}


def test_one_iteration_is_called_untrained():
    records = runs("student", GOOD) + runs("student", POOR, iterations=1)
    assert {(label, kind) for _, label, kind in lines(records)} == {
        ("STUDENT", "distilled, data-free"),
        ("STUDENT", "untrained"),
    }


def test_settings_that_differ_between_problems_share_a_row():
    records = runs("student", GOOD, lr=0.1) + runs("student", FAIR, target="cross", lr=0.2)
    (sheet,) = compare(records, ("js_made_up",)).sheets
    ((_, (sampler,)),) = sheet.blocks
    assert [column.problem.label for column in sheet.columns] == ["cross", "ring"] and all(sampler.cells)


def test_nfe_is_what_was_counted_and_ranks_stay_within_it():
    records = runs("student", GOOD, nfe=4) + runs("pupil", POOR, nfe=4) + runs("pupil", FAIR, nfe=2)
    for r in records:
        r["config"]["method"]["nfe"] = 99  # what the configuration says is not asked
    ranks = [(nfe, rank) for (nfe, _, _), (_, rank, _) in lines(records).items()]
    assert ranks == [(2, None), (4, 1), (4, 2)]  # the one that stands alone has won nothing


def test_failures_and_missing_cells_are_printed(tmp_path):
    records = runs("student", GOOD) + runs("pupil", FAIR, target="cross")
    failed = record("ode", "ring", status="failed")
    failed["config"]["method"] |= {"nfe": 2, "grid": "quad"}
    text = render_terminal([*records, failed], ("js_made_up",))
    assert "- 1/1 failed" in text and "distilled, data-free" in text
    page = write_report([*records, failed], tmp_path, "t", ("js_made_up",))["html"].read_text()
    assert "1/1 failed" in page and "seed 0 failed: ValueError: &lt;boom&gt;" in page


def test_other_methods_do_not_enter():
    assert compare([record("student")]).sheets == ()
    assert "no records of few-step samplers" in render_terminal([record("student")])


def test_the_default_metrics_are_those_that_trained_and_solvers_share():
    records = runs("student", GOOD) + runs("ode", POOR, grid="quad")
    for r in records:
        r["metrics"]["own"] = r["metrics"]["js_made_up"]
        if r["method"] == "ode":
            del r["metrics"]["own"]
    assert [sheet.metric for sheet in compare(records).sheets] == ["js_made_up"]


def test_published_values_name_their_teacher_and_are_never_ranked():
    rows = quoted()
    assert all(row.teacher for row in rows) and all(row.nfe is None or row.nfe <= 20 for row in rows)
    assert {row.teacher for row in rows if "AMED" in row.citation} == {"EDM"}
    assert any(row.method == "DDIM" and row.nfe == 10 and row.teacher == "DDPM" for row in rows)
    data = as_json(runs("student", GOOD), ("js_made_up",))
    assert {cell["method"] for cell in data["metrics"][0]["cells"]} == {"student"}
    assert len(data["published"]) == len(rows)


def test_pages_are_self_contained_and_repeat(tmp_path):
    records = runs("student", FAIR, grid="explicit", times=list(TIMES)) + runs("student", POOR, iterations=1)
    records += runs("ode", GOOD, grid="quad") + runs("ode", FAIR, nfe=4, grid="quad") + runs("pupil", POOR, nfe=4)
    shuffled = random.Random(0).sample(records, len(records))
    first = write_report(records, tmp_path / "a", "t", ("js_made_up",))
    second = write_report(shuffled, tmp_path / "b", "t", ("js_made_up",))
    assert [path.read_bytes() for path in first.values()] == [path.read_bytes() for path in second.values()]
    page = first["html"].read_text()
    assert "<code>best of n</code>" in page and "`" not in page
    assert page.count("<svg") == 2 and not re.findall(r"""(?:src|href)\s*=\s*["']?\s*(?:https?:)?//""", page)
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(re.findall(r'\bid="([^"]+)"', page))
    for table in re.findall(r"(?:^\|.*\n)+", first["md"].read_text(), flags=re.M):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    assert r"\toprule" in first["tex"].read_text() and r"\textbf" in first["tex"].read_text()


def test_untrained_samplers_alone_have_no_picture_against_seconds(tmp_path):
    untrained = runs("student", POOR, iterations=1)
    assert write_report(untrained, tmp_path / "a", "t", ("js_made_up",))["html"].read_text().count("<svg") == 1
    both = untrained + runs("ode", GOOD, target="other", grid="quad")
    page = write_report(both, tmp_path / "b", "t", ("js_made_up",))["html"].read_text()
    assert page.count("<svg") == 2


def test_the_legend_has_the_methods_of_all_panels_each_with_one_look(tmp_path):
    records = runs("student", GOOD, target="ring") + runs("ode", POOR, target="ring", grid="quad")
    records += runs("student", FAIR, target="cross") + runs("pupil", POOR, target="cross")
    records += runs("student", FAIR, target="disc")
    page = write_report(records, tmp_path, "t", ("js_made_up",))["html"].read_text()
    for svg in re.findall(r"<svg.*?</svg>", page, flags=re.S):
        # no panel has all three: the legend is beside the second one of the row
        assert {name: svg.count(f">{name}<") for name in ("STUDENT", "PUPIL", "ODE")} == dict(STUDENT=1, PUPIL=1, ODE=1)


def test_the_command_line_knows_its_metrics(tmp_path, capsys):
    from bench.cli import main

    assert main(["report", "diffusion", "--results", str(tmp_path)]) == 0
    assert "no records of few-step samplers" in capsys.readouterr().out
    for arguments in (["diffusion", "--metric", "nonsense"], ["--metric", "nfe"]):
        assert main(["report", *arguments, "--results", str(tmp_path)]) == 2
