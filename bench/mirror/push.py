"""Mirror records that are there already, and upload what was written offline."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from bench.errors import UserError
from bench.mirror import content, ledger
from bench.mirror.access import answers, has_key, resolve, server
from bench.mirror.follow import Process
from bench.store import Record, Store

AT_ONCE = 20
"""Records per worker: what hangs costs no more than these."""

RUN_SECONDS = 30.0
"""Longest time per record."""

Tell = Callable[[str], None]


def push(
    store: Store, records: Iterable[Record], wandb: Mapping[str, Any], *, again: bool = False, tell: Tell
) -> dict[str, int]:
    """Mirror records that are not mirrored yet, or have changed since.

    Args:
        store: the results folder.
        records: records of it.
        wandb: the ``wandb`` settings of the configuration.
        again: whatever the ledger says; a history that is there already is not repeated.
        tell: hears a line per run.

    Returns:
        How many runs are ``online`` and ``offline`` by this call, were ``reused``, and are ``left`` undone.

    Raises:
        UserError: mode online without a key or a server; no folder for it; mode disabled.
    """
    mode = "offline" if wandb["mode"] == "offline" else resolve("auto")[0]
    if wandb["mode"] == "disabled":
        raise UserError("wandb.mode=disabled: nothing may be mirrored", "give wandb.mode=online or offline")
    if mode == "online" or wandb["mode"] == "online":
        require_server()
    to = ledger.place(wandb["project"], wandb["entity"])
    counts = {"online": 0, "offline": 0, "reused": 0, "left": 0}
    todo = []
    for record in records:
        entry = None if again else ledger.read(store.artifacts, record["run_id"])
        if ledger.delivered(store.artifacts, entry, record=content.digest(record), mode=mode, place=to):
            counts["reused"] += 1
        else:
            todo.append(record)
    for start in range(0, len(todo), AT_ONCE):
        part = todo[start : start + AT_ONCE]
        process = Process(store, wandb, mode, store.logs / "wandb_push.log")
        try:
            for record in part:
                path = store.path(record["run_id"], record["target"], record["method"])
                process.send(record=str(path.resolve()))
            process.end(RUN_SECONDS * (len(part) + 1))
        finally:
            process.kill()
        for line in process.said:
            if "run" in line:
                counts[line["mode"]] += 1
                tell(f"{line['run']}  {line['mode']}")
            elif "failed" in line:
                tell(f"not mirrored: {line['failed']}")
            elif "offline" in line:
                tell(f"offline copies only: {line['offline']}")
    counts["left"] = len(todo) - counts["online"] - counts["offline"]
    return counts


def sync(store: Store, *, tell: Tell) -> dict[str, int]:
    """Upload the offline runs of a results folder that are not uploaded yet, with the client's own command.

    Returns:
        How many folders were ``uploaded`` now, had been (``reused``), and are ``left``.

    Raises:
        UserError: no key, or no server.
    """
    folders = ledger.offline_folders(store.artifacts)
    todo = [folder for folder in folders if not ledger.is_synced(store.artifacts, folder.name)]
    if todo:
        require_server()
    for start in range(0, len(todo), AT_ONCE):
        part = todo[start : start + AT_ONCE]
        given = {key: value for key, value in os.environ.items() if key != "WANDB_MODE"}
        command = [sys.executable, "-P", "-m", "wandb", "sync", "--yes", *map(str, part)]
        try:
            done = subprocess.run(
                command,
                env=given | {"WANDB_DIR": str(store.artifacts), "WANDB_ERROR_REPORTING": "false"},  # its logs go there
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=RUN_SECONDS * (len(part) + 1),
            )
            said = done.stdout
        except subprocess.TimeoutExpired:
            said = "no end in time"
        for folder in part:
            tell(f"{folder.name}  {'uploaded' if ledger.is_synced(store.artifacts, folder.name) else 'left'}")
        if not all(ledger.is_synced(store.artifacts, folder.name) for folder in part):
            tell(said.strip())
    left = sum(not ledger.is_synced(store.artifacts, folder.name) for folder in todo)
    return {"uploaded": len(todo) - left, "reused": len(folders) - len(todo), "left": left}


def require_server() -> None:
    """Make sure that something can be uploaded.

    Raises:
        UserError: no key, or nobody answers.
    """
    if not has_key():
        raise UserError(f"no key for {server()}", "`wandb login`, or set WANDB_API_KEY")
    if not answers(server()):
        raise UserError(f"{server()} does not answer", "look at the network and at WANDB_BASE_URL")
