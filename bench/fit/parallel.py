"""One fit on several processes: each draws noise of its own, gradients and losses are averaged, the first one records.

A step of P processes is a step with a batch P times as large; so ``train.processes`` belongs to a run's identity.
The players' parameters are flat vectors, so that averaging is one all-reduce per step, traced into the iteration like
any other operation.  Processes stay identical because they begin alike and apply the same averages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bench.distributed import join
from bench.errors import UserError

if TYPE_CHECKING:
    from bench.config import Config


@dataclass(frozen=True)
class Processes:
    """This process among those of a fit.

    Attributes:
        rank: its number.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this one checkpoints, evaluates and records."""
        return self.rank == 0

    def mean(self, gradient: Tensor, loss: Tensor) -> tuple[Tensor, Tensor]:
        """Averages over the processes of [S, P] and [S], by one all-reduce; not finite anywhere is so everywhere."""
        if self.size == 1:
            return gradient, loss
        from torch.distributed import _functional_collectives as collectives

        both = torch.cat([gradient, loss.to(gradient.dtype).unsqueeze(1)], dim=1)
        group = torch.distributed.group.WORLD
        assert group is not None, "the processes have joined"
        both = collectives.all_reduce(both, "sum", group) / self.size
        return both[:, :-1], both[:, -1]

    def share(self, state: Mapping[str, Tensor]) -> None:
        """Overwrite the tensors with those of the first process."""
        for value in state.values() if self.size > 1 else ():
            torch.distributed.broadcast(value, 0)

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether it is so in any process."""
        if self.size == 1:
            return flag
        found = torch.tensor(int(flag), device=device)
        torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
        return bool(found)

    def tell(self, message: Any) -> Any:
        """What the first process says, in every process."""
        if self.size == 1:
            return message
        box = [message]
        torch.distributed.broadcast_object_list(box, 0)
        return box[0]


ALONE = Processes()


def processes_of(config: Config) -> Processes:
    """The processes that fit this configuration; joins them if that has not happened.

    Raises:
        UserError: ``train.processes`` is not the number of processes that were started, or all are to take one GPU.
    """
    wanted = config.train.get("processes", 1)
    if wanted == 1:
        return ALONE
    if ":" in config.device:
        raise UserError(f"device={config.device} with train.processes={wanted}", "device=cuda gives each its own")
    here = join()
    if here.size != wanted:
        raise UserError(
            f"train.processes={wanted}, but {here.size} processes were started",
            f"torchrun --nproc-per-node={wanted} -m bench run ..., or a site profile with so many GPUs",
        )
    return Processes(here.rank, here.size)
