"""What operations of our own share under ``vmap``: one leading dimension for the seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor


def with_seeds(info: Any, in_dims: Sequence[int | None], tensors: Sequence[Tensor]) -> list[Tensor]:
    """Arguments of a vmap rule with the mapped dimension in front; what is the same for all seeds is expanded.

    Args:
        info, in_dims, tensors: as a rule of ``torch.library`` or ``autograd.Function`` gets them.
    """
    return [
        t.unsqueeze(0).expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0)
        for t, dim in zip(tensors, in_dims, strict=True)
    ]
