"""Imports point one way: no two parts of the suite need each other, whether they import at once or late."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BENCH = sorted((ROOT / "bench").rglob("*.py"))


HELPERS = {"bench." + helper for helper in ("checks", "errors", "native", "noise", "registry")}
"""What methods and targets may know of ``bench``: not the engine, the configuration or W&B."""


def imported(path: Path, files: list[Path] = BENCH) -> Iterator[str]:
    """Modules among ``files`` that a file imports anywhere in it."""
    known = {name(file) for file in files}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            found = [module if module in known else node.module for module in inner]
        else:
            continue
        yield from (module for module in found if module in known)


def name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def part(module: str) -> str:
    """``bench.fit.loop`` belongs to ``bench.fit``, as ``bench.store`` to itself."""
    return ".".join(module.split(".")[:2])


@pytest.mark.parametrize(
    ("files", "of"), [(BENCH, part), (sorted((ROOT / "bench" / "cli").glob("*.py")), str)], ids=["parts", "commands"]
)
def test_nothing_in_bench_goes_round_in_a_circle(files: list[Path], of: Callable[[str], str]) -> None:
    arrows: dict[str, set[str]] = {}
    for path in files:
        here = of(name(path))
        arrows.setdefault(here, set()).update({of(module) for module in imported(path)} - {here, "bench"})
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


@pytest.mark.parametrize(("folder", "more"), [("methods", set()), ("targets", {"bench.files", "bench.places"})])
def test_methods_and_targets_know_helpers_of_bench_only(folder: str, more: set[str]) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        assert set(imported(path)) <= HELPERS | more, path


def test_targets_know_no_methods() -> None:
    methods = sorted((ROOT / "methods").rglob("*.py"))
    for path in (ROOT / "targets").rglob("*.py"):
        assert not set(imported(path, methods)), path


def test_wrappers_of_native_code_know_nothing_of_the_methods_that_call_them() -> None:
    methods = sorted((ROOT / "methods").rglob("*.py"))
    native = ROOT / "methods" / "native"
    for path in native.glob("*.py"):
        assert {part(module) for module in imported(path, methods)} <= {"methods.native"}, path
