"""One fit on two processes: equal parameters, averaged gradients, one record."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.config import build_method, build_target, compose
from bench.digest import digest
from bench.errors import UserError
from bench.fit.loop import Fit, fit
from bench.fit.members import initialise
from bench.fit.parallel import ALONE, Processes, processes_of
from bench.fit.program import Program, member_values
from bench.run import execute

SETTINGS = [
    "method=sivism",
    "target=banana",
    "seeds=1",
    "method.batch=16",
    "method.hidden=[8]",
    "method.critic=[8]",
    "train.iterations=2",
]
OUTSIDE = ["eval.curve_points=0", "eval.metrics=[]", "wandb.mode=disabled", "progress=never"]

OFF_BEAT = ["train.iterations=300", "eval.curve_points=7"]


def fitted(processes: Processes, iterations: int) -> Fit:
    config = compose(SETTINGS)
    target = build_target(config)
    members = initialise(lambda: build_method(config, target), config.seeds)
    return fit(members, config.seeds, iterations, processes=processes)


def main(folder: Path) -> None:
    """What each of the two processes does."""
    torch.set_num_threads(1)
    config = compose([*SETTINGS, *OUTSIDE, "train.processes=2", f"paths.results={folder}"])
    processes = processes_of(config)
    state = fitted(processes, 1).state
    torch.save(dict(state), folder / f"first-{processes.rank}.pt")
    records = execute(config)
    again = execute(config)
    # curve points off the beat of the loss points: all processes must meet equally often
    execute(compose([*SETTINGS, *OUTSIDE, *OFF_BEAT, "train.processes=2", f"paths.results={folder}/off_beat"]))
    (folder / f"records-{processes.rank}.json").write_text(json.dumps([records, again]))


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        __file__,
        str(folder),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_both_processes_hold_the_same_numbers(together):
    first, second = (torch.load(together / f"first-{rank}.pt", weights_only=True) for rank in (0, 1))
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


def test_the_gradient_is_the_mean_of_those_of_two_lone_processes(together):
    """After one step Adam's first moment is a tenth of the gradient, of a player that saw the initial parameters."""
    state = torch.load(together / "first-0.pt", weights_only=True)
    lone = [fitted(Processes(rank, 1), 1).state for rank in (0, 1)]
    first = Program(build_method(compose(SETTINGS), build_target(compose(SETTINGS))), 1).players[0]
    key = f"opt/{first.name}/m"
    assert first.steps == 1 and not torch.allclose(lone[0][key], lone[1][key], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(state[key], (lone[0][key] + lone[1][key]) / 2, rtol=1e-5, atol=1e-7)
    mean = (lone[0][f"loss/{first.name}"] + lone[1][f"loss/{first.name}"]) / 2
    torch.testing.assert_close(state[f"loss/{first.name}"], mean)


def test_the_first_process_records_and_the_other_knows(together):
    (records, again), other = (json.loads((together / f"records-{rank}.json").read_text()) for rank in (0, 1))
    assert [records, again] == other and records == again
    assert [record["status"] for record in records] == ["done"]
    assert len(list(together.glob("runs/*/*/*.json"))) == 1


def test_one_process_is_what_it_was():
    """The number of processes is part of a run's identity, but for one."""
    alone = compose(SETTINGS)
    assert "processes" not in alone.identity["train"]
    assert compose([*SETTINGS, "train.processes=2"]).config_id != alone.config_id
    assert processes_of(alone) is ALONE


def test_processes_that_were_not_started(monkeypatch):
    for name in ("RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="torchrun"):
        processes_of(compose([*SETTINGS, "train.processes=2"]))


def test_a_method_with_other_steps_than_gradients():
    config = compose(["method=bam", "target=banana"])
    with pytest.raises(UserError, match="gradients"):
        Program(build_method(config, build_target(config)), 10, Processes(0, 2))


def test_ranks_draw_different_noise():
    alone, second = (fitted(Processes(rank, 1), 1) for rank in (0, 1))
    assert digest(member_values(alone.state, 0)) != digest(member_values(second.state, 0))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
