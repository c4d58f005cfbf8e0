"""Where the runs of a sweep, or of a whole results folder, stand: counts by method and target, lines about runs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from bench import claims
from bench.launch.manifest import Manifest, manifests
from bench.launch.state import STATES, Situation, drifted, seed_span, situation
from bench.status import FAILED
from bench.store import Record, Store

if TYPE_CHECKING:
    from bench.plan.cells import Plan

SHOWN = (*FAILED, "lost", "running", "queued")
"""States that come with a reason, the ones to look at first."""

MOST = 100
"""Most lines about runs."""

Run = dict[str, Any]
"""method, target and seed, and the fields of ``bench.launch.state.RunState``."""


def of_plan(plan: Plan) -> tuple[list[Run], list[str], Situation]:
    """Every run of a sweep, and what there is to say about its jobs."""
    from bench.sweep.slurm import join, states  # imported late: `status` of a folder needs no torch

    now = join(plan)
    runs = [
        {"method": cell.method, "target": cell.target, "seed": seed, **vars(run)}
        for cell, seed, run in states(plan, now)
    ]
    return runs, _notes(now), now


def of_store(store: Store, records: Sequence[Record]) -> tuple[list[Run], list[str]]:
    """Every run that is on record, claimed or submitted, and what there is to say about the jobs.

    Args:
        store: the results folder.
        records: what is on record there.
    """
    submitted = manifests(store)
    known = {record["run_id"]: record for record in records}
    about = {
        f"{group['config_id']}-s{seed}": (group["method"], group["target"], seed)
        for manifest in submitted
        for groups in manifest.jobs.values()
        for group in groups
        for seed in group["seeds"]
    }
    for run_id, claim in claims.standing(store.claims).items():
        about.setdefault(run_id, (str(claim.get("method")), str(claim.get("target")), _seed(run_id)))
    about |= {run_id: (record["method"], record["target"], record["seed"]) for run_id, record in known.items()}
    now = situation(store, submitted, {run for run in about if run not in known or known[run]["status"] != "done"})
    runs = [
        {"method": method, "target": target, "seed": seed, **vars(now.of(run_id, known.get(run_id)))}
        for run_id, (method, target, seed) in about.items()
    ]
    return runs, _notes(now)


def _seed(run_id: str) -> int:
    number = run_id.rpartition("-s")[2]
    return int(number) if number.isdigit() else 0


def _notes(now: Situation) -> list[str]:
    found = []
    used: list[Manifest] = list({id(manifest): manifest for manifest, _ in now.last.values()}.values())
    if used and not now.queue.reached:
        found.append("SLURM does not answer: which jobs wait or run is not known")
    if other := drifted(used):
        found.append(f"{len(other)} jobs started with other code than was submitted: {', '.join(other[:5])}")
    return found


def rows(runs: Iterable[Run]) -> list[dict[str, Any]]:
    """Counts of each state by method and target, with the runs there is something to say about."""
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    told: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        pair = run["target"], run["method"]
        counts[pair][run["state"]] += 1
        if run["state"] in SHOWN:
            told[pair].append(run)
    return [
        {"method": m, "target": t, **{state: n[state] for state in STATES}, "runs": told[t, m]}
        for (t, m), n in sorted(counts.items())
    ]


def table(counted: Sequence[dict[str, Any]]) -> list[str]:
    """The counts as lines of text."""
    if not counted:
        return ["no runs"]
    wide = max(len(f"{row['method']} x {row['target']}") for row in counted)
    lines = [f"{'':{wide}}  " + "  ".join(f"{state:>8}" for state in STATES)]
    for row in counted:
        pair = f"{row['method']} x {row['target']}"
        lines.append(f"{pair:{wide}}  " + "  ".join(f"{row[state] or '-':>8}" for state in STATES))
    if len(counted) > 1:
        total = {state: sum(row[state] for row in counted) for state in STATES}
        lines.append(f"{'all':{wide}}  " + "  ".join(f"{total[state] or '-':>8}" for state in STATES))
    return lines


def stories(counted: Sequence[dict[str, Any]]) -> list[str]:
    """Lines about runs that need one, the ones to look at first at the top; seeds with the same story share a line."""
    told: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for run in (run for row in counted for run in row["runs"]):
        config_id = run["run_id"].rpartition("-s")[0]
        told[run["state"], config_id, f"{run['method']} x {run['target']}", run["reason"]].append(run["seed"])
    lines = [
        f"{config_id}-s{seed_span(seeds)}  {pair}  {state}  {reason}".rstrip()
        for (state, config_id, pair, reason), seeds in sorted(told.items(), key=lambda item: SHOWN.index(item[0][0]))
    ]
    return lines[:MOST] + [f"... and {len(lines) - MOST} more lines (--json shows all)"] * (len(lines) > MOST)
