"""A submitted sweep, planned again from its manifest."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from bench.cli.cluster import plan_of
from bench.launch import submit as submitting
from bench.launch.group import make_groups
from bench.launch.options import compose_options
from bench.launch.site import Site
from bench.plan.cells import make_plan
from bench.store import Store

ADDING = """
title: Two settings
replace: false
exclude: {'*/x_shaped': slow}
overrides:
  - method=meanfield target=banana,multimodal,x_shaped train.iterations=10
  - method=meanfield target=banana,multimodal train.iterations=20
"""


@pytest.fixture
def submitted(tmp_path, monkeypatch) -> tuple[argparse.Namespace, Path]:
    """What ``status`` is asked about a sweep whose second line adds cells, and the manifest of its submission."""
    file = tmp_path / "adding.yaml"
    file.write_text(ADDING)
    plan = make_plan(str(file), ["seeds=2"], tmp_path / "results")
    groups = make_groups(plan.cells, {cell.config.config_id: cell.config.seeds for cell in plan.cells}, None)
    monkeypatch.setattr(submitting, "check_slurm", lambda partition: None)
    monkeypatch.setattr(submitting, "_warn_of_stuck", lambda *arguments: None)
    monkeypatch.setattr(submitting, "_submit_array", lambda jobs, *more: [f"7_{i}" for i in range(len(jobs))])
    manifest = submitting.submit(
        groups,
        sweep=plan.sweep,
        overrides=["seeds=2"],
        store=Store(tmp_path / "results"),
        site=Site(),
        options=compose_options(["launcher=slurm"]),
        tell=lambda line: None,
    )
    file.unlink()  # what was submitted is known without the file
    return argparse.Namespace(name="adding", results=str(tmp_path / "results")), Path(manifest.folder) / "manifest.json"


def test_a_submitted_sweep_is_planned_again_as_it_was(submitted):
    arguments, manifest = submitted
    plan = plan_of(arguments)
    kept = json.loads(manifest.read_text())
    runs = {f"{group['config_id']}-s{seed}" for [group] in kept["jobs"].values() for seed in group["seeds"]}
    assert {run for run, _ in plan.runs()} == runs and len(runs) == 8
    assert plan.sweep.title == "Two settings" and plan.sweep.replace is False


def test_in_a_manifest_of_old_later_lines_replace(submitted):
    arguments, manifest = submitted
    kept = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({key: kept[key] for key in kept if key not in ("title", "results", "replace")}))
    assert {cell.config.train["iterations"] for cell in plan_of(arguments).cells} == {20}
