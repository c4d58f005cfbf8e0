"""Functions of symmetric matrices that neither stop nor wait for the host."""

from __future__ import annotations

import torch
from torch import Tensor

SQUARINGS = 6
ORDER = 10


def symmetric_exp(A: Tensor) -> Tensor:
    """exp(A) for symmetric A [..., d, d] with a norm below about 30, to float32 rounding.

    Taylor polynomial of A / 2^6, squared six times.  An eigendecomposition would have no gradient at equal eigenvalues
    (the usual start is a multiple of the identity), and ``torch.matrix_exp`` picks its degree by values on the host.
    """
    identity = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    small = A / 2**SQUARINGS
    total = identity
    for order in range(ORDER, 0, -1):  # Horner
        total = identity + small @ total / order
    for _ in range(SQUARINGS):
        total = total @ total
    return total


def cholesky(matrix: Tensor) -> Tensor:
    """Lower Cholesky factor [..., d, d], NaN where there is none (``torch.linalg.cholesky`` would stop all seeds)."""
    factor, info = torch.linalg.cholesky_ex(matrix)
    return torch.where((info == 0).unsqueeze(-1).unsqueeze(-1), factor, torch.nan)
