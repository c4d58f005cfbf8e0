"""Checkpoint files: atomic, verified, and which of them a set of seeds continues from."""

from __future__ import annotations

import errno
import os
import signal
import tracemalloc

import pytest
import torch

from bench.cli import main
from bench.environment import environment
from bench.errors import UserError
from bench.fit.checkpoint import Checkpoint, covering, saved_groups, split_by_group
from bench.fit.progress import Progress
from bench.store import Store

CPU = torch.device("cpu")
PAYLOAD = {"state": {"theta": torch.arange(60.0)}, "plain": {"losses": {"q": [[0.5, float("inf")]]}, "attempts": 1}}


@pytest.fixture
def checkpoint(tmp_path):
    checkpoint = Checkpoint(tmp_path, "test", [0, 1])
    checkpoint.save(PAYLOAD)
    return checkpoint


def test_roundtrip(checkpoint):
    loaded = checkpoint.load(CPU)
    assert torch.equal(loaded["state"]["theta"], PAYLOAD["state"]["theta"])
    assert loaded["plain"] == PAYLOAD["plain"]
    checkpoint.discard()
    assert checkpoint.load(CPU) is None and list(checkpoint.path.parent.iterdir()) == []


def test_no_flipped_bit_and_no_truncation_goes_unnoticed(checkpoint):
    content = checkpoint.path.read_bytes()
    for place in range(0, len(content), 7):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        for damaged in (bytes(flipped), content[:place]):
            checkpoint.path.write_bytes(damaged)
            with pytest.raises(UserError, match=f"rm {checkpoint.path}"):
                checkpoint.load(CPU)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"[]\n", b"null\n", b'{"format": 1}\n', b"\x80\x04."])
def test_other_files_are_no_checkpoints(content, checkpoint):
    checkpoint.path.write_bytes(content)
    for read in (lambda: checkpoint.load(CPU), lambda: covering(checkpoint.path.parent, "test", [1])):
        with pytest.raises(UserError, match="corrupt or from another version"):
            read()


def test_a_checkpoint_of_another_configuration_is_refused(checkpoint):
    other = Checkpoint(checkpoint.path.parent, "other", [0, 1])
    os.replace(checkpoint.path, other.path)
    with pytest.raises(UserError, match="corrupt or from another version"):
        other.load(CPU)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_keeps_the_old_checkpoint(call, checkpoint, monkeypatch):
    old = checkpoint.path.read_bytes()

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(UserError, match="the disk is full"):
        checkpoint.save(PAYLOAD)
    assert checkpoint.path.read_bytes() == old
    assert list(checkpoint.path.parent.iterdir()) == [checkpoint.path]


def test_a_write_takes_no_more_memory_than_what_it_writes(tmp_path, monkeypatch):
    """Beside the state a checkpoint is held once."""
    peak = []
    monkeypatch.setattr(os, "fsync", lambda handle: peak.append(tracemalloc.get_traced_memory()[1]))
    tracemalloc.start()
    try:
        Checkpoint(tmp_path, "test", [0]).save({"state": {"theta": torch.zeros(5_000_000)}})
    finally:
        tracemalloc.stop()
    assert 20e6 < peak[0] < 30e6


def test_half_a_file_of_a_killed_process_is_no_checkpoint_and_goes_with_it(checkpoint):
    leftover = checkpoint.path.with_name(f".{checkpoint.path.name}.123.tmp")
    leftover.write_bytes(b"half")
    assert [group.seeds for group in saved_groups(checkpoint.path.parent, "test")] == [[0, 1]]
    checkpoint.discard()
    assert list(checkpoint.path.parent.iterdir()) == []


def test_the_groups_are_found_without_reading_what_they_saved(checkpoint):
    os.truncate(checkpoint.path, 50_000_000)
    tracemalloc.start()
    try:
        assert [group.seeds for group in saved_groups(checkpoint.path.parent, "test")] == [[0, 1]]
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("saved", "asked", "parts"),
    [
        ([], [0, 1, 2], [[0, 1, 2]]),
        ([[0, 1, 2]], [0, 1, 2], [[0, 1, 2]]),
        ([[0, 1, 2]], [1, 2], [[1, 2]]),
        ([[0, 1, 2]], [2, 3, 4], [[2], [3, 4]]),
        ([[0, 2], [1]], [0, 1, 2, 3], [[0, 2], [1], [3]]),
        ([[0, 1], [0, 1, 2]], [0, 1, 2], [[0, 1, 2]]),
        ([[5]], [0, 1], [[0, 1]]),
    ],
)
def test_seeds_are_split_by_the_groups_they_were_saved_in(saved, asked, parts, tmp_path):
    for seeds in saved:
        Checkpoint(tmp_path, "test", seeds).save(PAYLOAD)
    Checkpoint(tmp_path, "other", asked).save(PAYLOAD)
    found = split_by_group(tmp_path, "test", asked)
    assert sorted(found) == sorted(parts)
    for part in found:  # what the engine then continues holds the whole part
        assert set(part) <= set(covering(tmp_path, "test", part).seeds)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_goes_on_where_it_was(tmp_path, monkeypatch, capsys, number, code):
    arguments = ["run", "method=meanfield", "target=banana", "seeds=1", "train.iterations=300", "eval.metrics=[]"]
    arguments += ["--results", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "update", lambda *state: os.kill(os.getpid(), number))
        assert main(arguments) == code
    assert f"stopped by {number.name}; finished runs and a checkpoint are kept" in capsys.readouterr().err
    store = Store(tmp_path)
    assert store.files() == [] and len(list((store.artifacts / "checkpoints").glob("*.pt"))) == 1
    assert main(arguments) == 0
    (record,) = store.records()
    assert (record["status"], record["cost"]["attempts"]) == ("done", 2)
    assert list((store.artifacts / "checkpoints").iterdir()) == [] and "made_with" not in record["env"]


def test_a_run_that_goes_on_otherwise_than_it_began_says_so(tmp_path, monkeypatch, caplog):
    arguments = ["run", "method=meanfield", "target=banana", "seeds=1", "train.iterations=300", "eval.metrics=[]"]
    arguments += ["eval.curve_points=0", "--results", str(tmp_path)]
    for attempt in range(3):
        with monkeypatch.context() as patch:
            found = {"mine.py": "old" if attempt == 0 else "new"}
            patch.setattr("bench.fit.group.plugins", lambda *components, found=found: found)
            if attempt == 2:
                patch.setattr("bench.fit.group.environment", lambda **how: environment(**how) | {"threads": 2})
            else:
                patch.setattr(Progress, "update", lambda *state: os.kill(os.getpid(), signal.SIGTERM))
            assert main(arguments) == (0 if attempt == 2 else 143)
    assert "plugins, threads changed between interruptions" in caplog.text
    (record,) = Store(tmp_path).records()
    made_with = record["env"]["made_with"]
    assert [(m["plugins"]["mine.py"], m["threads"]) for m in made_with] == [("old", 1), ("new", 1), ("new", 2)]
    assert all(m["source"] == record["env"]["source"] and m["torch"] == torch.__version__ for m in made_with)


def test_an_interrupted_retry_goes_on_after_a_command_that_retries_nothing(tmp_path, monkeypatch, capsys):
    arguments = ["run", "method=meanfield", "target=banana", "seeds=1", "train.iterations=300", "eval.metrics=[]"]
    arguments += ["eval.curve_points=0", "--results", str(tmp_path)]
    assert main(arguments) == 0
    store = Store(tmp_path)
    (record,) = store.records()
    store.put(record | {"status": "diverged", "diverged_at": 3, "created": "2026-01-01T00:00:00Z"})
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "update", lambda *state: os.kill(os.getpid(), signal.SIGTERM))
        assert main([*arguments, "--retry"]) == 143
    (checkpoint,) = saved_groups(store.artifacts / "checkpoints", record["config_id"])
    assert main(arguments) == 0
    assert int(checkpoint.load(CPU)["state"]["step"]) < 300
    assert main([*arguments, "--retry"]) == 0
    assert [(r["status"], r["cost"]["attempts"]) for r in store.records()] == [("done", 3)]
    assert not checkpoint.path.exists()
