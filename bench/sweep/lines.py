"""The lines of output of a sweep: what a plan holds, what it lacks, what it may cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bench.launch.estimate import describe_cost
from bench.launch.group import make_groups
from bench.plan.cells import Cell, Plan
from bench.plan.pace import pace
from bench.run import Retry
from bench.store import Store
from targets.fetch import noting_missing

Tell = Callable[[str], None]


@contextmanager
def planning(dry_run: bool, tell: Tell) -> Iterator[None]:
    """Around the making of a plan: says which data files its runs want and cannot have; a dry run downloads none."""
    with noting_missing(downloads=not dry_run) as missing:
        yield
    if not missing:
        return
    names = ", ".join(dict.fromkeys(missing))
    if dry_run:
        tell(f"not here, and wanted by a run: {names}")
    else:
        tell(f"warning: could not be downloaded: {names}; runs that want them will fail, set SIVIBENCH_DATA")


def cost(todo: list[Cell], store: Store, tell: Tell) -> None:
    """What the rest may cost, from the pace of earlier runs."""
    groups = make_groups(todo, {cell.config.config_id: cell.config.seeds for cell in todo}, None)
    tell(describe_cost(groups, pace(store), gpus=0, side_by_side=1))


def announce(plan: Plan, todo: list[Cell], retry: Retry, tell: Tell) -> None:
    """How much there is to do, and which cells do not fit."""
    runs, wanted = sum(len(cell.config.seeds) for cell in plan.cells), sum(len(c.todo(retry=retry)) for c in todo)
    tell(f"{plan.sweep.title}: {len(plan.cells)} cells, {runs} runs; {runs - wanted} on record, {wanted} to do")
    for method, target, reason in plan.skipped:
        tell(f"skipped {method} x {target}: {reason}")


def table(plan: Plan, tell: Tell) -> None:
    """A line per cell with its seeds by status."""
    for cell in plan.cells:
        counts = ", ".join(f"{number} {status}" for status, number in cell.counts().items() if number)
        tell(f"  {cell.config.config_id}  {cell.method} x {cell.target}: {counts}")


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"
