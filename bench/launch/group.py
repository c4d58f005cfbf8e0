"""Batched runs and the SLURM jobs they are packed into: what a job is told, plain data that travels as a pickle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bench.config import Config
from bench.errors import UserError
from bench.plan.cells import Cell


@dataclass(frozen=True)
class Group:
    """Seeds of one configuration that are fitted together.

    Attributes:
        config: the configuration; its ``seeds`` are those of this group.
        config_id: its identity where it was submitted, to notice code that makes another run of it.
        redo: seed -> creation time of the record that is to be replaced.
    """

    config: Config
    config_id: str
    redo: dict[int, str] = field(default_factory=dict)

    @property
    def runs(self) -> list[str]:
        return [f"{self.config_id}-s{seed}" for seed in self.config.seeds]

    @property
    def together(self) -> bool:
        """Whether all processes of a job train it together, instead of one of them alone."""
        return self.config.train.get("processes", 1) > 1

    def as_dict(self) -> dict[str, Any]:
        """For the manifest."""
        names = {"method": self.config.method["name"], "target": self.config.target["name"]}
        return names | {"config_id": self.config_id, "seeds": self.config.seeds}


@dataclass(frozen=True)
class Job:
    """What one SLURM job is to do.

    Attributes:
        groups: its batched runs.
        folder: where its journal goes.
        minutes: its time limit.
        signal_seconds: how long before it the job is warned.
        timeouts: how often it may go on after its time limit with the same runs.
        git: commit at submission.
        source: digest of the code at submission.
    """

    groups: list[Group]
    folder: str
    minutes: int
    signal_seconds: int
    timeouts: int
    git: str | None
    source: str


def make_groups(cells: Sequence[Cell], todo: dict[str, list[int]], limit: int | None) -> list[Group]:
    """The batched runs that do what is left.

    Args:
        cells: configurations, in the order of the runs.
        todo: seeds by config id.
        limit: most seeds of one batched run.
    """
    groups = []
    for cell in cells:
        for part in cell.config.batches(todo.get(cell.config.config_id, []), limit):
            redo = {seed: cell.records[seed]["created"] for seed in part if seed in cell.records}
            groups.append(Group(replace(cell.config, seeds=part), cell.config.config_id, redo))
    return groups


def pack(groups: Sequence[Group], size: int) -> list[list[Group]]:
    """Batched runs by job.  Neighbours go to different jobs, so that long ones (they come first) do not meet in one.

    Raises:
        UserError: ``size`` is no positive number.
    """
    if size < 1:
        raise UserError(f"launcher.pack={size} is too small", "give at least 1")
    number = -(-len(groups) // size)
    return [list(groups[i::number]) for i in range(number)]


def require_work(groups: Sequence[Group], pack: int, processes: int) -> None:
    """Refuse jobs with more processes than batched runs, unless all processes train each of them together.

    Args:
        pack: batched runs of a job.
        processes: of a job.

    Raises:
        UserError: some would have nothing to do.
    """
    if pack < processes and not all(group.together for group in groups):
        raise UserError(
            f"launcher.pack={pack} leaves {processes - pack} of the {processes} processes of a job without work",
            f"give launcher.pack={processes} or more, or ask for fewer GPUs, nodes or tasks_per_gpu",
        )
