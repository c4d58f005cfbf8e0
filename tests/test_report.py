"""Reports from synthetic records: what is shown, what never mixes, and that bytes repeat."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import random
import re
import shlex
import sys

import numpy as np
import pytest

import bench.registry
from bench.config.compose import compose
from bench.errors import UserError
from bench.metrics.base import Metric
from bench.registry import Entry
from bench.report import as_json, render_terminal, write_report
from bench.report.curves import loss_curves, metric_curves
from bench.report.figures import palette
from bench.report.groups import group
from bench.report.html import render as render_page
from bench.report.overview import overview
from bench.report.published import DEFAULT_PATH, find, rows
from bench.report.scatter import scatter
from bench.report.standing import UNUSUAL
from bench.report.table import About, build
from bench.report.terminal import align, fold
from methods.base import Method

PROTOCOL = {"metric": "js_made_up", "version": 1, "bins": 64}


def record(
    method="alpha",
    target="ring",
    seed=0,
    value=0.1,
    *,
    status="done",
    iterations=50,
    points=2,
    protocol=None,
    **changes,
):
    """A run record with one metric ``js_made_up``, curves and draws."""
    protocol = protocol or PROTOCOL
    protocol_id = hashlib.sha256(json.dumps(protocol, sort_keys=True).encode()).hexdigest()[:8]
    config = {
        "method": {"name": method, "version": 1, "batch": 500},
        "target": {"name": target, "version": 1},
        "train": {"iterations": iterations},
        "eval": {"curve_points": points},
    }
    config_id = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:10]
    done = status == "done"
    rng = np.random.default_rng([seed, len(method), len(target)])
    made = {
        "schema": 1,
        "run_id": f"{config_id}-s{seed}",
        "config_id": config_id,
        "seed": seed,
        "method": method,
        "target": target,
        "status": status,
        "config": config,
        "metrics": {"js_made_up": {"value": value, "floor": 0.001, "protocol": protocol_id}} if done else {},
        "protocols": {protocol_id: protocol} if done else {},
        "skipped_metrics": {},
        "curve": {
            "loss": {"q": {"step": [10, 20], "value": [1.0, 0.5 + 0.1 * seed]}},
            "metrics": {"js_made_up": {"step": [10, 20], "value": [0.5, 0.2], "protocol": "ffee0011"}},
        },
        "diverged_at": 13 if status == "diverged" else None,
        "samples": rng.normal(size=(20, 2)).round(3).tolist() if done else None,
        "parameters_sha256": "0",
        "cost": {"seconds": 8.0, "seeds_sharing": 4, "iterations": iterations, "target_evaluations": 25000},
        "env": {"git": "0123456789abcdef", "dirty": False, "device": "cpu", "device_name": "CPU"},
        "error": "Traceback\nValueError: <boom>" if status == "failed" else None,
        "created": "2026-11-21T00:00:00Z",
    }
    return made | changes


def fits(method, values, target="ring", **changes):
    """One record per value, seeds from 0."""
    return [record(method, target, seed, value, **changes) for seed, value in enumerate(values)]


ALPHA = (0.10, 0.11, 0.09, 0.105)
BETA = (0.11, 0.10, 0.095, 0.10)
GAMMA = (0.50, 0.52, 0.49, 0.51)


def only_board(records):
    """The board of a report that has just one."""
    (section,) = build(records).sections
    (board,) = section.boards
    return board


def test_ties_share_a_rank():
    board = only_board(fits("alpha", ALPHA) + fits("beta", BETA) + fits("gamma", GAMMA))
    assert {row.label: row.rank for row in board.rows} == {"alpha": 1, "beta": 1, "gamma": 3}


def test_cost_is_per_seed_and_floor_is_shown():
    (row,) = only_board(fits("alpha", ALPHA)).rows
    assert (row.seconds, row.evaluations, row.floor) == (2.0, 25000, pytest.approx(0.001))


def test_failed_seeds_are_shown_everywhere(tmp_path):
    records = fits("alpha", ALPHA) + [record("alpha", seed=4, status="diverged"), record("beta", status="failed")]
    board = only_board(records)
    assert [row.label for row in board.rows] == ["alpha", "beta"]
    assert board.rows[0].failures == {"diverged": 1} and board.rows[1].summary is None
    paths = write_report(records, tmp_path, "t")
    for text in (render_terminal(records), *(paths[kind].read_text() for kind in ("html", "md"))):
        assert "1/5 diverged" in text and "1/1 failed" in text and "1†" in text
    assert "seed 0 failed: ValueError: &lt;boom&gt;" in paths["html"].read_text()
    assert "seed 4 diverged at step 13" in paths["html"].read_text()


def test_few_survivors_of_many_seeds_are_not_ranked(tmp_path):
    lost = [record("beta", seed=seed, status="diverged") for seed in range(2, 5)]
    records = fits("alpha", GAMMA) + fits("beta", BETA[:2]) + lost
    board = only_board(records)
    assert [(row.label, row.rank) for row in board.rows] == [("alpha", 1), ("beta", None)]
    half = [record("beta", seed=seed, status="diverged") for seed in range(2, 4)]
    board = only_board(fits("alpha", GAMMA) + fits("beta", BETA[:2]) + half)
    assert [row.label for row in board.rows] == ["beta", "alpha"]
    assert "beta" in write_report(records, tmp_path, "t")["html"].read_text()


def test_one_seed_is_shown_in_its_place_and_not_ranked():
    board = only_board(fits("alpha", ALPHA) + fits("beta", GAMMA[:1]) + fits("gamma", GAMMA))
    assert {row.label: row.rank for row in board.rows} == {"alpha": 1, "beta": None, "gamma": 2}


def test_value_that_is_not_finite_is_counted():
    board = only_board([*fits("alpha", ALPHA), record("alpha", seed=4, value=float("nan"))])
    assert board.rows[0].failures == {"not finite": 1} and board.rows[0].summary.n == 4


def test_target_where_everything_failed_still_has_a_board():
    board = only_board([record(status="timeout", seed=s) for s in range(2)])
    assert board.rows[0].failures == {"timeout": 2} and board.rows[0].rank is None


def test_two_protocols_never_share_a_board():
    coarse = PROTOCOL | {"bins": 16}
    records = fits("alpha", ALPHA) + fits("beta", BETA, protocol=coarse)
    boards = build(records).sections[0].boards
    assert len(boards) == 2
    for board in boards:
        assert sum(row.summary is not None for row in board.rows) == 1
        assert [row.reason.split()[0] for row in board.rows if row.summary is None] == ["measured"]
    assert sorted(board.distinct["bins"] for board in boards) == [16, 64]
    assert "bins=16" in render_terminal(records)


def test_seeds_of_one_row_with_two_protocols_are_not_pooled():
    records = [*fits("alpha", ALPHA[:3]), record("alpha", seed=3, protocol=PROTOCOL | {"version": 2})]
    counts = [row.summary.n for board in build(records).sections[0].boards for row in board.rows]
    assert sorted(counts) == [1, 3]


def test_configurations_are_separate_rows_named_by_their_difference():
    board = only_board(fits("alpha", ALPHA) + fits("alpha", GAMMA, iterations=2000))
    assert [row.label for row in board.rows] == ["alpha (iterations=50)", "alpha (iterations=2000)"]


@pytest.mark.parametrize(
    ("iterations", "labels"),
    [
        ((50, 2000), ["alpha (iterations=50)", "alpha (iterations=2000)"]),
        ((50, 50), ["alpha (curve_points=2)", "alpha (curve_points=0)"]),
    ],
)
def test_what_is_measured_on_the_way_names_a_row_only_where_nothing_else_does(iterations, labels):
    records = fits("alpha", ALPHA, iterations=iterations[0]) + fits("alpha", GAMMA, iterations=iterations[1], points=0)
    (section,) = build(records).sections
    assert [row.label for row in section.boards[0].rows] == labels


def configured(method, values, target="banana", iterations=100, **hyper_parameters):
    """Records of a method of the registry with its defaults but for some hyper-parameters."""
    records = fits(method, values, target=target, iterations=iterations)
    for made in records:
        made["config"]["method"] = {"name": method, **hyper_parameters}
        made["config_id"] = f"{method}-{target}-{sorted(hyper_parameters.items())}-{iterations}"
        made["run_id"] = f"{made['config_id']}-s{made['seed']}"
    return records


def test_the_overview_has_the_configuration_nearest_to_a_methods_settings_never_the_best():
    tuned = compose(["method=ksivi", "target=banana"]).method
    records = configured("ksivi", GAMMA, **tuned) + configured("ksivi", ALPHA, **tuned | {"lr": 1e-5})
    records += configured("ksivi", BETA, iterations=99, **tuned) + configured("ksivi", BETA) + configured("sivi", BETA)
    records += configured("ksivi", BETA, target="student_uc")
    matrix = overview(build(records))
    rows = {row.label: row for row in matrix.rows}
    assert set(rows) == {"ksivi", "sivi"}
    stands = rows["ksivi"].cells[0]
    assert stands.summary.mean == pytest.approx(np.mean(GAMMA)) and stands.rank == 2  # and not behind its own others
    assert matrix.others[stands.config_id] == 3 and f"({stands.rank}) +3" in render_terminal(records)


def test_the_overview_marks_what_does_not_have_its_methods_settings(tmp_path):
    ksivi, sivi = (compose([f"method={name}", "target=banana"]).method for name in ("ksivi", "sivi"))
    records = configured("ksivi", GAMMA, **ksivi | {"lr": 1e-5}) + configured("sivi", ALPHA, **sivi | {"lr": 0.5})
    records += configured("sivi", BETA, **sivi) + fits("alpha", BETA, target="ring")  # not a method of the registry
    matrix = overview(build(records))
    marks = {row.label: [matrix.marks(cell) for cell in row.cells] for row in matrix.rows}
    assert marks == {"alpha": ["", ""], "ksivi": ["*", ""], "sivi": ["+1", ""]}
    pages = {suffix: path.read_text() for suffix, path in write_report(records, tmp_path, "t").items()}
    assert "(2) * " in render_terminal(records) and UNUSUAL in render_terminal(records)
    assert pages["html"].count("<small> *</small>") == 1 and "*: no run has" in pages["html"]
    assert pages["md"].count(r"(2) \* |") == 1 and r"\*: no run has" in pages["md"] and pages["tex"].count("$^*$") == 1
    assert "no run has" not in render_terminal(configured("sivi", BETA, **sivi) + fits("alpha", BETA, target="ring"))


def test_the_overview_of_one_method_has_its_configurations():
    records = [
        made for target in ("banana", "student_uc") for lr in (0.1, 0.2)
        for made in configured("ksivi", ALPHA, target=target, lr=lr)
    ]  # fmt: skip
    assert [row.label for row in overview(build(records)).rows] == ["ksivi (lr=0.1)", "ksivi (lr=0.2)"]


def test_a_wide_overview_is_folded_without_losing_a_cell():
    grid = [["method", *(f"target {i}" for i in range(9))], ["a", *"123456789"], ["b", *"-2-------"]]
    parts = fold(grid, width=40)
    assert len(parts) > 1 and all(len(line) <= 40 for part in parts for line in align(part).splitlines())
    assert [cell for part in parts for cell in part[1][1:]] == list("123456789")
    assert [row[0] for part in parts for row in part if "b" in row] == ["b"]  # only where it has something
    assert fold(grid, width=200) == [grid]


def test_configurations_of_a_target_are_separate_problems():
    config = {"target": {"name": "ring", "version": 1, "width": 2}}
    wide = [r | {"config": r["config"] | config} for r in fits("b", BETA)]
    sections = build(fits("alpha", ALPHA) + wide).sections
    assert [s.problem.label for s in sections] == ["ring", "ring (width=2)"]


def test_missing_and_skipped_cells_say_why():
    records = fits("alpha", ALPHA) + fits("alpha", ALPHA, target="cross") + fits("beta", BETA)
    for r in records:
        r["skipped_metrics"] = {"ksd": "has no score"} if r["method"] == "beta" else {}
    by_name = {(b.problem.name, b.metric): b for s in build(records).sections for b in s.boards}
    missing = by_name["cross", "js_made_up"].rows[-1]
    assert (missing.label, missing.summary, missing.reason) == ("beta", None, "not run")
    skipped = next(row for row in by_name["ring", "ksd"].rows if row.label == "beta")
    assert skipped.reason == "has no score"
    assert "has no score" in render_terminal(records) and "not run" in render_terminal(records)
    told = render_terminal(records, About(("Read me.",), {"alpha/*": "no such cell", "*/cross": "takes a week"}))
    assert told.startswith("Read me.\n") and "takes a week: beta" in told and "not run" not in told


def test_duplicates_are_dropped_and_contradictions_refused():
    assert len(group(fits("alpha", ALPHA) * 2)[0].records) == 4
    with pytest.raises(UserError, match="two different records claim run"):
        build([record(value=0.1), record(value=0.2)])


def test_same_bytes_in_any_order(tmp_path):
    records = fits("alpha", ALPHA) + fits("beta", BETA) + fits("gamma", GAMMA, target="cross")
    shuffled = random.Random(0).sample(records, len(records))
    first = {kind: path.read_bytes() for kind, path in write_report(records, tmp_path / "a", "t").items()}
    second = {kind: path.read_bytes() for kind, path in write_report(shuffled, tmp_path / "b", "t").items()}
    assert first == second
    assert render_terminal(records) == render_terminal(shuffled)
    assert json.dumps(as_json(records), allow_nan=False) == json.dumps(as_json(shuffled), allow_nan=False)


def test_page_loads_nothing_and_escapes_names(tmp_path):
    page = write_report(fits("alpha", ALPHA), tmp_path, "a <b> & c")["html"].read_text()
    assert not re.findall(r"""(?:src|href|data)\s*=\s*["']?\s*(?:https?:)?//""", page)
    assert "@import" not in page and "url(http" not in page
    assert "<title>a &lt;b&gt; &amp; c</title>" in page
    ids = re.findall(r'\bid="([^"]+)"', page)
    links = re.findall(r'href="#([^"]+)"', page)
    assert set(links) <= set(ids)
    assert page.count("<svg") == 3
    assert "2026-11-21" in page and "0123456789" in page


@pytest.mark.parametrize("draw", [scatter, metric_curves, loss_curves])
def test_long_labels_leave_panels_their_width_and_do_not_overlap(draw, monkeypatch):
    records = [
        made for kernel in ("gaussian", "multiquadric", "riesz") for lr in (0.001, 0.002) for made in
        configured("ksivi", ALPHA[:1], kernel=kernel, lr=lr, statistic="unbiased", variance="conditional")
    ]  # fmt: skip
    for number, made in enumerate(records):
        made["config"]["method"] |= {"bandwidth": "median " * (1 + number), "batch": 100 + number}
    (section,) = build(records).sections
    assert max(len(member.label) for member in section.groups) > 90
    drawn = []
    monkeypatch.setattr(sys.modules[draw.__module__], "to_svg", lambda figure, *_: drawn.append(figure) or "<svg>")
    draw(section, palette({member.label: member.method for member in section.groups}), "p")
    (figure,) = drawn
    figure.draw_without_rendering()
    columns = min(4, len(figure.axes))
    assert all(axis.get_position().width > 0.7 / columns for axis in figure.axes)
    assert all(axis.get_position().height * figure.get_figheight() > 1.3 for axis in figure.axes)
    texts = [axis.title.get_window_extent() for axis in figure.axes]
    texts += [text.get_window_extent() for legend in figure.legends for text in legend.get_texts()]
    texts += [axis.get_window_extent() for axis in figure.axes]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(texts, 2))
    assert all(figure.bbox.containsx(x) for text in texts for x in (text.x0, text.x1))
    assert min(text.y0 for text in texts) >= 0 and max(text.y1 for text in texts) <= figure.bbox.y1


def test_a_colour_is_a_methods_and_no_two_configurations_look_the_same():
    for names, configurations, colours in ((14, 2, 1), (2, 13, 3)):  # more methods than colours, more fits than lines
        methods = {f"m{i} ({j})": f"m{i}" for i in range(names) for j in range(configurations)}
        looks = palette(methods)
        assert len(set(looks.values())) == len(methods)
        assert len({(method, looks[label].colour) for label, method in methods.items()}) == names * colours


def test_what_stands_in_backticks_is_code_on_the_page():
    records = fits("alpha", ALPHA) + fits("beta", BETA, target="cross")
    tables = dataclasses.replace(build(records, About(("see `a < b`",), {"beta/*": "`x`"})), few_step=1)
    page = render_page(tables, overview(tables), "t", "stamp")
    assert "see <code>a &lt; b</code>" in page and "<code>x</code>: beta" in page
    assert "see <code>sivibench report diffusion</code>" in page
    assert "`" not in page


def test_command_reproduces_the_cell():
    command = next(iter(as_json(fits("alpha", ALPHA))["targets"][0]["commands"].values()))
    assert command == (
        "sivibench run method=alpha target=ring seeds=4 method.batch=500 train.iterations=50 eval.curve_points=2"
    )


@pytest.mark.parametrize(
    "overrides",
    [
        [],  # tuned by a file in conf/
        ["seeds=[1,4]", "train.iterations=123", "method.hidden=[7]", "eval.metrics=[js_grid]"],
        ["method=meanfield", "target=x_shaped", "seeds=3"],
        ["method=ksivi", "target=student_uc", "tuned=none"],  # without the options that the tuned file sets
    ],
)
def test_command_composes_to_the_same_configuration(overrides):
    config = compose(overrides)
    identity = json.loads(json.dumps({key: getattr(config, key) for key in ("method", "target", "train", "eval")}))
    name, target = identity["method"]["name"], identity["target"]["name"]
    records = [
        record(name, target, seed, config=identity, config_id=config.config_id, run_id=f"{config.config_id}-s{seed}")
        for seed in config.seeds
    ]
    command = next(iter(as_json(records)["targets"][0]["commands"].values()))
    again = compose(shlex.split(command)[2:])
    assert (again.config_id, tuple(again.seeds)) == (config.config_id, tuple(config.seeds))


def test_markdown_tables_are_well_formed(tmp_path):
    records = fits("alpha", ALPHA) + [record("be|ta", status="failed")] + fits("gamma", GAMMA, target="cross")
    text = write_report(records, tmp_path, "t")["md"].read_text()
    tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.M)
    assert len(tables) == 3
    for table in tables:
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(columns) == 1
        assert re.fullmatch(r"\|( --- \|)+", table.splitlines()[1])


def test_report_of_no_records(tmp_path):
    assert "no records" in render_terminal([])
    assert "No records" in write_report([], tmp_path, "empty")["html"].read_text()


@pytest.fixture
def papers(monkeypatch):
    """A method and two metrics linked to published names, registered for one test only."""

    class Made(Method):
        paper_name = "KPG-IS"

    class Made2(Metric):
        published_as = (("nll_target_draws", "nll-100k"), ("kl_forward", "fkl-100k"))

    class Made3(Metric):
        published_as = (("kl_forward", "statcomp-xshape"),)

    monkeypatch.setitem(bench.registry._ENTRIES["method"], "alpha", Entry("method", "alpha", Made, "", ""))
    monkeypatch.setitem(bench.registry._ENTRIES["metric"], "js_made_up", Entry("metric", "js_made_up", Made2, "", ""))
    monkeypatch.setitem(bench.registry._ENTRIES["metric"], "other", Entry("metric", "other", Made3, "", ""))


def test_published_value_stands_beside_ours_and_is_not_ranked(papers, tmp_path):
    (item,) = find("alpha", "banana", "js_made_up")
    assert item.value == 2.0913 and item.spread == 0.0026
    assert item.quantity == "nll_target_draws [nll-100k]" and item.citation == "KPG 2025, T3"
    records = fits("alpha", ALPHA, target="banana") + fits("beta", BETA, target="banana")
    board = build(records).sections[0].boards[0]
    assert {row.label: len(row.published) for row in board.rows if row.rank} == {"alpha": 1, "beta": 0}
    assert "nll-100k" in render_terminal(records)
    assert "2.0913" in write_report(records, tmp_path, "t")["html"].read_text()


def test_a_published_value_of_another_target_does_not_stand_beside_ours(papers):
    records = fits("alpha", ALPHA, target="banana") + fits("beta", BETA, target="banana")
    for made in records:
        made["config"]["target"] = {"name": "banana", "version": 1, "dim": 5}
    assert not build(records).sections[0].boards[0].has_published


def test_of_a_metric_where_more_is_better_the_highest_comes_first(monkeypatch):
    class More(Metric):
        direction = "higher"

    monkeypatch.setitem(bench.registry._ENTRIES["metric"], "js_made_up", Entry("metric", "js_made_up", More, "", ""))
    board = only_board(fits("alpha", ALPHA) + fits("gamma", GAMMA))
    assert [(row.label, row.rank) for row in board.rows] == [("gamma", 1), ("alpha", 2)]


def test_a_method_ranked_on_few_targets_does_not_lead_the_overview():
    targets = ("ring", "cross", "star", "moon", "sun")
    records = [made for target in targets for name in "bc" for made in fits(name, BETA, target=target)]
    records += [made for target in targets[:2] for made in fits("a", (0.01, 0.012, 0.011), target=target)]
    matrix = overview(build(records))
    assert [(row.label, row.ranked) for row in matrix.rows] == [("b", 5), ("c", 5), ("a", 2)]
    assert matrix.rows[2].mean_rank == 1 < matrix.rows[0].mean_rank


def test_forward_kl_on_the_grid_is_not_what_papers_print():
    assert find("ksivi", "banana", "kl_forward_grid") == ()


def test_only_comparable_rows_are_ever_used(papers):
    assert rows() and all(row["comparable"] == "yes" for row in rows())
    # KSIVI on x_shaped has such a row, marked protocol_differs
    assert "statcomp-xshape" in DEFAULT_PATH.read_text()
    assert find("ksivi", "x_shaped", "other") == ()


@pytest.mark.parametrize(("old", "new"), [(",yes,", ",Yes,"), (",sd,", ",SD,"), (",0.0185,", ",.0185 nats,")])
def test_a_published_number_that_a_verdict_would_misread_is_refused(tmp_path, old, new):
    copy = tmp_path / "published.csv"
    copy.write_text(DEFAULT_PATH.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match="has (comparable|spread_kind|value)"):
        rows(copy)


def test_absent_file_of_published_numbers(tmp_path, papers):
    assert find("alpha", "banana", "js_made_up", tmp_path / "none.csv") == ()


def test_a_target_that_cannot_be_built_any_more_costs_only_its_density(tmp_path):
    records = fits("alpha", ALPHA, target="banana")
    for r in records:
        r["samples"] = [[0.0, 0.0], [1.0, 1.0]]
        other = compose(["method=meanfield", "target=linear_pair"]).target
        r["config"]["target"], r["target"] = {**other, "s": -0.1}, "linear_pair"
    page = write_report(records, tmp_path, "t")["html"].read_text()
    assert "Density not drawn: linear_pair cannot be built from its record (UserError)" in page


def test_an_unchanged_report_is_not_drawn_again(tmp_path, monkeypatch):
    records = fits("alpha", ALPHA)
    page = write_report(records, tmp_path, "t")["html"]
    drawn = page.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("bench.report.build", lambda *_: pytest.fail("drawn again"))
        assert write_report(list(reversed(records)), tmp_path, "t")["html"].read_bytes() == drawn
    write_report(records[:-1], tmp_path, "t")
    assert page.read_bytes() != drawn
    write_report(records, tmp_path, "t")
    with monkeypatch.context() as patch, pytest.raises(pytest.fail.Exception, match="drawn again"):
        patch.setattr("bench.report.build", lambda *_: pytest.fail("drawn again"))
        write_report(records, tmp_path, "t", About(left_out={"beta/*": "takes a week"}))
    with monkeypatch.context() as patch:
        (tmp_path / "published.csv").write_text("other printed numbers")
        patch.setattr("bench.report.published.DEFAULT_PATH", tmp_path / "published.csv")
        patch.setattr("bench.report.build", lambda *_: pytest.fail("drawn again"))
        with pytest.raises(pytest.fail.Exception, match="drawn again"):
            write_report(records, tmp_path, "t")


def test_a_row_alone_and_the_loose_end_of_a_bound_have_no_rank():
    assert [row.rank for row in only_board(fits("alpha", ALPHA)).rows] == [None]
    for name, ranked in (("elbo_lower", True), ("elbo_upper", False)):
        records = fits("alpha", ALPHA) + fits("beta", GAMMA)
        for r in records:
            r["metrics"] = {name: r["metrics"]["js_made_up"]}
        assert [row.rank is not None for row in only_board(records).rows] == [ranked, ranked]


@pytest.mark.parametrize(("metric", "kind"), [("js_grid", "error"), ("elbo_lower", "perfect q")])
def test_what_a_floor_is_stands_above_it(metric, kind, tmp_path):
    records = fits("alpha", ALPHA) + fits("beta", GAMMA)
    for made in records:
        made["metrics"] = {metric: made["metrics"]["js_made_up"]}
    assert f"floor ({kind})" in render_terminal(records)
    pages = {suffix: path.read_text() for suffix, path in write_report(records, tmp_path, "t").items()}
    assert f"floor ({kind})" in pages["md"].replace("\\_", "_") and f"<th>floor <small>{kind}</small>" in pages["html"]


def test_a_share_of_draws_that_is_not_all_is_never_called_all(tmp_path):
    records = fits("alpha", ALPHA[:1], target="banana") + fits("beta", ALPHA[:1], target="banana")
    for made in records:
        made["config"]["target"] = {"name": "banana"}
        made["samples"] = [[0.0, 0.0]] * 2999 + [[1e6, 1e6]]
    page = write_report(records, tmp_path, "t")["html"].read_text()
    assert "At least 99.9% of each" in page and "100.0%" not in page


def test_rows_that_differ_by_less_than_half_a_floor_share_their_rank():
    records = fits("alpha", [0.0101, 0.0102, 0.0101]) + fits("beta", [0.0105, 0.0106, 0.0105])
    assert [row.rank for row in only_board(records).rows] == [1, 1]  # the floor is .001
    records = fits("alpha", [0.0101, 0.0102, 0.0101]) + fits("beta", [0.0109, 0.0110, 0.0109])
    assert [row.rank for row in only_board(records).rows] == [1, 2]


def test_floors_around_zero_are_averaged_by_their_size():
    records = fits("alpha", ALPHA)
    for r, floor in zip(records, (0.003, -0.003, 0.004, -0.004), strict=True):
        r["metrics"]["js_made_up"]["floor"] = floor
    assert only_board(records).rows[0].floor == pytest.approx(12.5e-6**0.5)


def test_a_board_of_several_budgets_says_whose_is_which():
    board = only_board(fits("alpha", ALPHA) + fits("beta", GAMMA, iterations=2000))
    assert [row.label for row in board.rows] == ["alpha (iterations=50)", "beta (iterations=2000)"]
