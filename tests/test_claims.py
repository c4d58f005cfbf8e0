"""Two processes never do the same run, and a dead one does not block it."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bench import claims
from bench.claims import claim
from bench.errors import UserError


def test_granted_then_busy_then_released(tmp_path):
    with claim(tmp_path, ["a", "b"], {"method": "m"}) as (granted, busy):
        assert granted == ["a", "b"] and busy == {}
        with claim(tmp_path, ["b", "c"]) as (second, others):
            assert second == ["c"]
            assert others["b"]["pid"] == os.getpid() and others["b"]["method"] == "m"
        assert set(claims.standing(tmp_path)) == {"a", "b"}
    assert list(tmp_path.iterdir()) == []


def test_released_after_an_exception(tmp_path):
    with pytest.raises(KeyboardInterrupt), claim(tmp_path, ["a"]):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def leave_claim(folder, run_id="a", **changes):
    """A claim of a process of this machine that has ended, or as changed."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    with claim(folder, [run_id]):
        owner = json.loads((folder / f"{run_id}.json").read_text())
    path = folder / f"{run_id}.json"
    path.write_text(json.dumps(owner | {"pid": child.pid} | changes))
    return path


def test_claim_of_a_dead_process_is_taken_over(tmp_path):
    path = leave_claim(tmp_path)
    assert claims.stale(tmp_path) == [path]
    with claim(tmp_path, ["a"]) as (granted, _):
        assert granted == ["a"]
        assert json.loads(path.read_text())["pid"] == os.getpid()
        assert claims.stale(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_reused_pid_is_recognised(tmp_path):
    leave_claim(tmp_path, pid=os.getpid(), process_start="1")
    with claim(tmp_path, ["a"]) as (granted, _):
        assert granted == ["a"]


@pytest.mark.parametrize("hidepid", [FileNotFoundError, PermissionError])
def test_where_processes_of_others_are_hidden_their_claims_count_by_age(hidepid, tmp_path, monkeypatch):
    path, original = leave_claim(tmp_path, pid=os.getpid()), Path.read_text

    def kill(pid, number):
        raise PermissionError

    def read_text(self, *arguments, **keys):
        if self == Path(f"/proc/{os.getpid()}/stat"):
            raise hidepid
        return original(self, *arguments, **keys)

    monkeypatch.setattr(os, "kill", kill)
    monkeypatch.setattr(Path, "read_text", read_text)
    assert set(claims.standing(tmp_path)) == {"a"}
    os.utime(path, (1, 1))
    assert claims.stale(tmp_path) == [path]


def test_a_claim_of_another_machine_holds_until_its_heartbeat_is_old(tmp_path):
    path = leave_claim(tmp_path, host="elsewhere")
    with claim(tmp_path, ["a"]) as (granted, busy):
        assert granted == [] and busy["a"]["host"] == "elsewhere"
    old = time.time() - claims.EXPIRY - 1
    os.utime(path, (old, old))
    with claim(tmp_path, ["a"]) as (granted, _):
        assert granted == ["a"]


def test_an_unreadable_claim_counts_by_age(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("{")
    with claim(tmp_path, ["a"]) as (granted, _):
        assert granted == []
    os.utime(path, (1, 1))
    with claim(tmp_path, ["a"]) as (granted, _):
        assert granted == ["a"]


def test_a_taker_that_died_half_way_is_taken_over_too(tmp_path):
    path = leave_claim(tmp_path)
    token = json.loads(path.read_text())["token"]
    leave_claim(tmp_path, f"a.json.{token}")
    os.rename(tmp_path / f"a.json.{token}.json", tmp_path / f"a.json.{token}")
    with claim(tmp_path, ["a"]) as (granted, _):
        assert granted == ["a"]
    assert list(tmp_path.iterdir()) == []


def test_the_heartbeat_refreshes_own_claims_only(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "HEARTBEAT", 0.02)
    with claim(tmp_path, ["a", "b"]):
        other = json.loads((tmp_path / "b.json").read_text()) | {"token": "somebody else"}
        (tmp_path / "b.json").write_text(json.dumps(other))
        for name in ("a", "b"):
            os.utime(tmp_path / f"{name}.json", (1, 1))
        time.sleep(0.3)
        assert (tmp_path / "a.json").stat().st_mtime > 1
        assert (tmp_path / "b.json").stat().st_mtime == 1
    assert [path.name for path in tmp_path.iterdir()] == ["b.json"]


@pytest.mark.parametrize("module", [os, Path])
def test_the_heartbeat_outlives_troubles_of_the_file_system(module, tmp_path, monkeypatch):
    name = "utime" if module is os else "read_text"
    original, troubles = getattr(module, name), [errno.ESTALE, errno.EIO, errno.EACCES]

    def troubled(path, *arguments, **keys):
        if troubles and threading.current_thread() is not threading.main_thread():
            raise OSError(troubles.pop(), "trouble")
        return original(path, *arguments, **keys)

    monkeypatch.setattr(claims, "HEARTBEAT", 0.02)
    monkeypatch.setattr(module, name, troubled)
    with claim(tmp_path, ["a"]):
        os.utime(tmp_path / "a.json", (1, 1))
        deadline = time.monotonic() + 60
        while (tmp_path / "a.json").stat().st_mtime == 1 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert (tmp_path / "a.json").stat().st_mtime > 1 and troubles == []


@pytest.mark.parametrize("name", ["read_text", "stat"])
@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.EACCES])
def test_a_claim_that_cannot_be_read_counts_as_live(name, number, tmp_path, monkeypatch):
    path = leave_claim(tmp_path, host="elsewhere")
    os.utime(path, (1, 1))
    token, original = json.loads(path.read_text())["token"], getattr(Path, name)

    def troubled(self, *arguments, **keys):
        if self == path:
            raise OSError(number, "trouble")
        return original(self, *arguments, **keys)

    with monkeypatch.context() as patch:
        patch.setattr(Path, name, troubled)
        assert set(claims.standing(tmp_path)) == {"a"}
        claims.expire(tmp_path, "a", token)
        with claim(tmp_path, ["a", "b"]) as (granted, busy):
            assert granted == ["b"] and set(busy) == {"a"}
    assert json.loads(path.read_text())["token"] == token
    assert claims.stale(tmp_path) == [path]


def test_a_garbled_claim_counts_as_live_while_it_is_fresh(tmp_path):
    for content in (b"", b'{"token": ', b"\xff\xfe\x80"):
        (tmp_path / "a.json").write_bytes(content)
        assert claims.standing(tmp_path) == {"a": {}}


def _contend(folder, gate, queue):
    gate.wait()
    with claim(folder, ["a"]) as (granted, _):
        queue.put(granted)
        gate.wait()  # hold it until all have tried


def test_of_several_processes_one_takes_a_stale_claim(tmp_path):
    leave_claim(tmp_path)
    context = multiprocessing.get_context("fork")
    gate, queue = context.Barrier(4), context.Queue()
    children = [context.Process(target=_contend, args=(tmp_path, gate, queue)) for _ in range(4)]
    for child in children:
        child.start()
    results = [queue.get(timeout=300) for _ in children]
    for child in children:
        child.join()
    assert sorted(results) == [[], [], [], ["a"]]


def test_of_many_threads_one_takes_a_stale_claim(tmp_path):
    for _ in range(20):
        leave = leave_claim(tmp_path)
        gate, won = threading.Barrier(6), []

        def contend(gate=gate, won=won):
            gate.wait()
            with claim(tmp_path, ["a"]) as (granted, _):
                won.extend(granted)
                gate.wait()

        threads = [threading.Thread(target=contend) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert won == ["a"]
        assert not leave.exists()


def test_an_unwritable_folder_is_one_message(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="part of the path is a file"), claim(tmp_path / "file", ["a"]):
        pass
