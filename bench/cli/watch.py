"""``sivibench sweep ... --watch``: wait for the jobs of a sweep, with a table that keeps up."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from typing import TextIO

from bench.cli import states
from bench.errors import UserError
from bench.launch.state import STATES
from bench.plan.cells import Plan, refresh
from bench.status import ENDED_WELL

EVERY = 2.0
"""Least time between two looks, seconds."""

SHARE = 0.1
"""Most of the time that looking may take: thousands of runs on a shared file system, a busy controller."""


def watch(plan: Plan, stream: TextIO) -> Plan:
    """Wait until no job of a plan's runs waits or runs.

    Args:
        plan: the sweep.
        stream: a terminal shows the table of ``status``, drawn again and again; anything else gets a line of counts
            whenever they have changed.

    Returns:
        The plan with the records there are then.

    Raises:
        UserError: there are jobs, but no SLURM here to ask about them.
    """
    shown: list[str] = []
    while True:
        started = time.monotonic()
        plan = refresh(plan)
        runs, notes, now = states.of_plan(plan)
        if not now.queue.reached and shutil.which("scontrol") is None:
            raise UserError("there is no SLURM here to ask about the jobs", "watch them from a login node")
        stamp, total = time.strftime("%H:%M:%S"), Counter(run["state"] for run in runs)
        counts = ", ".join(f"{total[state]} {state}" for state in STATES if total[state])
        head = [counts, *(f"note: {note}" for note in notes)]
        if stream.isatty():
            lines = _fitting([f"[{stamp}] {head[0]}", *head[1:], *states.table(states.rows(runs))])
            stream.write(f"\x1b[{len(shown)}F" * bool(shown) + "\x1b[J" + "".join(f"{line}\n" for line in lines))
            shown = lines
        elif head != shown:
            stream.write(f"[{stamp}] " + "; ".join(head) + "\n")
            shown = head
        stream.flush()
        if now.queue.reached and not now.live:
            return refresh(plan)
        time.sleep(max(EVERY, (time.monotonic() - started) / SHARE))


def tell_end(plan: Plan, stream: TextIO) -> bool:
    """Name the runs that did not end well; whether every run has a record that is none of a failure."""
    runs, _, _ = states.of_plan(plan)
    for line in states.stories(states.rows(runs)):
        print(line, file=stream)
    return all(run["state"] in ENDED_WELL for run in runs)


def _fitting(lines: list[str]) -> list[str]:
    """What a terminal can show without scrolling, for then the cursor does not find the beginning again."""
    size = shutil.get_terminal_size()
    most = max(size.lines - 1, 2)
    cut = [line[: size.columns - 1] for line in lines]
    return cut if len(cut) <= most else [*cut[: most - 1], f"... and {len(cut) - most + 1} more lines"]
