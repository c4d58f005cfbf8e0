"""What operations of our own share: a leading dimension for the seeds, and arguments that native code may read."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
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


def points_with_seeds(info: Any, in_dims: Sequence[int | None], tensors: Sequence[Tensor]) -> list[Tensor]:
    """``with_seeds`` for arguments [..., n, d] whose leading dimensions broadcast: all get as many as the most has."""
    batched = with_seeds(info, in_dims, tensors)
    most = max(t.dim() for t in batched)
    return [t.reshape(len(t), *[1] * (most - t.dim()), *t.shape[1:]) for t in batched]


def leading(*tensors: Tensor) -> torch.Size:
    """The dimensions of the seeds of arguments [..., n, d], broadcast."""
    return torch.broadcast_shapes(*(t.shape[:-2] for t in tensors))


def matrices(*tensors: Tensor) -> list[Tensor]:
    """Arguments [..., n, d] as contiguous [S, n, d], leading dimensions broadcast: native code reads bare memory."""
    seeds = leading(*tensors)
    return [t.expand(*seeds, *t.shape[-2:]).reshape(-1, *t.shape[-2:]).contiguous() for t in tensors]


def addresses(tensors: Sequence[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    """Where the values of each lie, as a C array."""
    return (ctypes.c_void_p * len(tensors))(*(t.data_ptr() for t in tensors))


def require_one_dtype(**tensors: Tensor) -> None:
    """All of one precision, else native code would misread them.

    Raises:
        ValueError: names the one that differs from the first.
    """
    (first, reference), *others = tensors.items()
    for name, t in others:
        if t.dtype != reference.dtype:
            raise ValueError(
                f"{name} has dtype {t.dtype}, {first} has {reference.dtype}: a target's score and log density must "
                "have the dtype of the points they are given (register constants as buffers)"
            )
