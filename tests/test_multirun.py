"""Plain Hydra's way in refuses what the command line refuses."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bench.store import Store


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("method.name=meanfield", "method.name cannot be set"),
        ("tuned=nosuch", "unknown tuned configuration 'nosuch'"),
        ("launcher=slurm", "use `sivibench sweep`"),
    ],
)
def test_what_the_command_line_refuses_is_refused(tmp_path, override, words):
    given = ["method=fullrank", "target=banana", "train.iterations=2", override, f"paths.results={tmp_path}/results"]
    command = [sys.executable, "-m", "bench.multirun", *given, f"hydra.run.dir={tmp_path}/hydra"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0 and words in done.stdout + done.stderr
    assert Store(tmp_path / "results").files() == []
