"""Data files: where they are looked for, and what is said when they cannot be had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.errors import UserError
from bench.places import data_places
from bench.plan.cells import make_plan
from bench.plan.expand import sweep_of
from bench.sweep.lines import planning
from targets import fetch as fetching


def offline(url: str, **_: Any) -> str:
    """In place of ``pooch.retrieve``: tests download nothing."""
    raise ConnectionError("no network")


@pytest.fixture
def small_file(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A registry with one file ``toy/a.txt`` = b"right", empty data and cache folders, and no network."""
    path = tmp_path / "scratch"
    path.write_bytes(b"right")
    digest = fetching.sha256_of(path)
    monkeypatch.setattr(fetching, "FILES", {"toy/a.txt": fetching.DataFile("https://example.invalid/a.txt", digest)})
    monkeypatch.setenv("SIVIBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("SIVIBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("pooch.retrieve", offline)
    for folder in ("data", "cache"):
        (tmp_path / folder / "toy").mkdir(parents=True)
    return tmp_path


def test_fetch_looks_in_the_data_folder_first(small_file: Any) -> None:
    for folder in ("cache", "data"):
        (small_file / folder / "toy/a.txt").write_bytes(b"right")
        assert fetching.fetch("toy/a.txt") == small_file / folder / "toy/a.txt"


def test_fetch_rejects_a_wrong_hash(small_file: Any) -> None:
    path = small_file / "data/toy/a.txt"
    path.write_bytes(b"wrong")
    with pytest.raises(UserError) as error:
        fetching.fetch("toy/a.txt")
    for part in (str(path), fetching.sha256_of(path), fetching.FILES["toy/a.txt"].sha256):
        assert part in str(error.value)


def test_fetch_offline_says_what_to_do(small_file: Any) -> None:
    (small_file / "cache/toy/a.txt").write_bytes(b"torn")  # a damaged cache is replaced, not trusted
    with pytest.raises(UserError) as error:
        fetching.fetch("toy/a.txt")
    for part in (
        "SIVIBENCH_DATA",
        "toy/a.txt",
        "https://example.invalid/a.txt",
        str(small_file / "cache"),
        "no network",
    ):
        assert part in str(error.value)


def test_fetch_unknown_name() -> None:
    with pytest.raises(UserError, match="waveform"):
        fetching.fetch("blr/wavefrom.mat")


def test_fetch_downloads_nothing_where_it_must_not(small_file: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pooch.retrieve", lambda url, **_: pytest.fail(f"asked for {url}"))
    with fetching.local_only() as missing, pytest.raises(UserError, match="nothing is downloaded now"):
        fetching.fetch("toy/a.txt")
    assert missing == ["toy/a.txt"]
    with fetching.noting_missing() as missing, pytest.raises(UserError, match="cannot get the data file"):
        monkeypatch.setattr("pooch.retrieve", offline)
        fetching.fetch("toy/a.txt")
    assert missing == ["toy/a.txt"]
    (small_file / "cache/toy/a.txt").write_bytes(b"right")
    with fetching.local_only() as missing:
        assert fetching.fetch("toy/a.txt") == small_file / "cache/toy/a.txt"
    assert missing == []


def test_a_sweep_says_at_once_what_could_not_be_downloaded(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pooch.retrieve", offline)
    monkeypatch.delenv("SIVIBENCH_DATA", raising=False)
    monkeypatch.setenv("SIVIBENCH_CACHE", str(tmp_path / "cache"))
    lines: list[str] = []
    with planning(dry_run=False, tell=lines.append):
        make_plan(sweep_of(["method=meanfield target=bnn_yacht seeds=1"]), results=tmp_path / "results")
    (line,) = lines
    assert line.startswith("warning") and "uci/yacht.txt" in line


@pytest.mark.parametrize("data, first", [("~/data", "data"), ("", "cache")])
def test_places_are_the_data_folder_and_then_the_cache(data: str, first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIVIBENCH_DATA", data)
    monkeypatch.setenv("SIVIBENCH_CACHE", "~/cache")
    places = data_places("hapt")
    assert places[0] == Path.home() / first / "hapt" and places[-1] == Path.home() / "cache" / "hapt"
