"""The true sizes of the image experiments: arithmetic against a count of real steps, one real step where it is slow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.fit.compiled import build
from bench.fit.members import initialise
from bench.fit.program import Program
from bench.fit.tape import Tape
from bench.speed.full_size import ARCHITECTURES, Unseen, step
from bench.speed.work import row_of_step
from methods.hsivi_image import HSIVIImage

SMALL = ((1, 8, 8), "image_unet", {"width": 32, "multipliers": (1, 2), "blocks": 1, "attention": ()}, "linear")


@pytest.mark.parametrize("recompute", [False, True])
def test_a_step_costs_what_the_estimate_says(recompute):
    """To 3 %: embeddings, and gradients that the first and last layers do not need."""
    method = HSIVIImage(Unseen(SMALL), nfe=3, batch=4, critic_steps=1, recompute=recompute)
    with FlopCounterMode(display=False) as one:
        method.teacher.eps(torch.zeros(1, 64), torch.zeros(1))
    program = Program(method, 10)
    state = program.initial_state(initialise(lambda: method, [0]))
    tape = Tape([0], program.draws_per_iteration, program.device, program.dtype)
    tape.load(0)
    counts = []
    for player in program.players:
        advance = build(program, state, tape.tensors(), compile=False, moving=frozenset({player.name}))
        with FlopCounterMode(display=False) as counter:
            advance()
        counts.append(counter.get_total_flops() / (4 * one.get_total_flops()))
    assert counts == pytest.approx(list(row_of_step(3, recompute)), rel=0.03)


@pytest.mark.parametrize("table", list(ARCHITECTURES))
def test_the_docs_print_the_record_of_the_full_runs(table):
    root = Path(__file__).resolve().parents[1]
    rows = json.loads((root / "results" / "speed" / "full_size_work.json").read_text())["rows"]
    mine = [row for row in rows if row["table"] == table]
    assert [row["nfe"] for row in mine] == [5, 10, 15]
    units = (1e18, 1e13 * 86_400, 4e13 * 86_400)
    figures = [" / ".join(f"{row['flops'] / unit:.1f}" for row in mine) for unit in units]
    line = f"| `{table}` | {mine[0]['parameters']:,} | {' | '.join(figures)} |"
    assert line in (root / "docs" / "diffusion-images.md").read_text().splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("table", list(ARCHITECTURES))
def test_one_step_at_the_true_size(table):
    """Both players move once; memory is that of some fifty copies of the parameters."""
    row = step(table, ["method.batch=1", "method.nfe=2", "method.recompute=true"], torch.device("cpu"))
    assert row["peak_bytes"] < 200 * row["parameters"] + 1e9 and set(row["players"]) == {"critic", "student"}
