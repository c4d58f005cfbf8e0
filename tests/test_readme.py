"""The README's example: a method in one file appears everywhere, and passes the contract tests."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.cli.parser import parse
from bench.config import compose

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def plugin(tmp_path_factory) -> str:
    """The README's files, as SIVIBENCH_PLUGINS wants them."""
    blocks = re.findall(r"<!-- file: (\S+) -->\n```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert [name for name, _ in blocks] == ["isotropic.py", "annulus.py"]
    folder = tmp_path_factory.mktemp("plugin")
    for name, text in blocks:
        (folder / name).write_text(text)
    return os.pathsep.join(str(folder / name) for name, _ in blocks)


def test_every_run_composes_and_the_first_is_a_trial_beside_the_records():
    lines = re.findall(r"^sivibench (run .*?)(?: +#.*)?$", (ROOT / "README.md").read_text(), re.MULTILINE)
    runs = [parse(shlex.split(line)) for line in lines]
    configs = [compose(run.overrides) for run in runs]
    assert configs[0].eval["curve_points"] == 0
    ignored = subprocess.run(["git", "check-ignore", "-q", f"{runs[0].results}/"], cwd=ROOT)
    assert ignored.returncode in (0, 128)  # 128: not a checkout
    assert runs[0].results not in (None, configs[0].results)


def command(plugin: str, *arguments: str, told: bool = False) -> str:
    """What it prints, or with ``told`` what it says on the way."""
    environment = os.environ | {"SIVIBENCH_PLUGINS": plugin}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stderr if told else done.stdout


def test_listed_run_and_in_the_leaderboard(plugin, tmp_path):
    methods = json.loads(command(plugin, "-m", "bench", "list", "methods", "--json"))
    assert "isotropic" in json.dumps(methods)
    settings = ["method=isotropic", "target=annulus", "method.lr=0.05", "train.iterations=300", "seeds=2"]
    quick = ["eval.metrics=[js_grid]", "eval.curve_points=2", "--results", str(tmp_path)]
    command(plugin, "-m", "bench", "run", *settings, *quick)
    first = plugin.split(os.pathsep)[0]
    changed = Path(shutil.copytree(Path(first).parent, tmp_path / "changed")) / "isotropic.py"
    changed.write_text(changed.read_text() + "# changed\n")
    assert "another version of isotropic.py; raise" in command(
        plugin.replace(first, str(changed)), "-m", "bench", "run", *settings, *quick, told=True
    )
    assert "isotropic" in command(plugin, "-m", "bench", "report", "--results", str(tmp_path))
    assert "isotropic" in (tmp_path / "reports" / "report.html").read_text()


@pytest.mark.parametrize(
    ("file", "chosen", "least"),
    [("test_engine.py", "isotropic and not compiles", 4), ("test_targets.py", "annulus", 4)],
)
def test_contract_tests_run_on_it(plugin, file, chosen, least):
    output = command(plugin, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/{file}", "-k", chosen)
    assert int(re.search(r"(\d+) passed", output)[1]) >= least
