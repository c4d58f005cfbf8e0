"""What documents say about the records of the repository is what the records give."""

from pathlib import Path

import pytest

from bench.cli import main

ROOT = Path(__file__).resolve().parent.parent


def test_the_tables_of_the_document_are_those_of_the_records(tmp_path, monkeypatch, capsys) -> None:
    """`sivibench reproduce all --markdown docs/reproduction.md` was run after the last record came."""
    document = ROOT / "docs" / "reproduction.md"
    if not (ROOT / "results" / "runs").is_dir():
        pytest.skip("a checkout without records")
    monkeypatch.chdir(ROOT)
    copy = tmp_path / "reproduction.md"
    copy.write_text(document.read_text(encoding="utf-8"), encoding="utf-8")
    assert main(["reproduce", "all", "--results", "results", "--markdown", str(copy)]) == 0
    capsys.readouterr()
    assert copy.read_text(encoding="utf-8") == document.read_text(encoding="utf-8")
