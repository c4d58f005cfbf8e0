"""Kernel Stein discrepancies in coordinates that follow the spread of the draws."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from bench.errors import UserError
from methods.parts.symmetric import cholesky

Precondition = Literal["none", "inverse_covariance", "affine"]

JITTER = 1e-8
"""Added to the covariance's diagonal, as in the code of KSIVI."""


def precondition(x: Tensor, f: Tensor, batch: Tensor, how: Precondition) -> tuple[Tensor, Tensor]:
    """Points and Stein vectors to give to ``stein_discrepancy`` instead of x and f.

    With the covariance C = L L' of ``batch``, a constant under differentiation:

        none                x, f
        inverse_covariance  x, L^-1 f         so that <f, f'> becomes f' C^-1 f'.  This is what the code of KSIVI
                                              (arXiv:2405.18997) calls "affine_invariant" and uses on student_uc;
                                              it is invariant under rotations only.
        affine              L^-1 x, L' f      the discrepancy of the whitened problem, <f, f'> becomes f' C f': with
                                              a kernel of Euclidean distances it is invariant under every x -> A x.

    Args:
        x: draws, [N, d].
        f: s_p(x) - grad_x log q(x | z), [N, d].
        batch: draws whose covariance is taken, [M, d], M > d.
        how: see above.
    """
    if how == "none":
        return x, f
    centred = (batch - batch.mean(0)).detach()
    covariance = centred.T @ centred / (len(batch) - 1)  # torch.cov reads values on the host
    L = cholesky(covariance + JITTER * torch.eye(x.shape[-1], dtype=x.dtype, device=x.device))
    if how == "inverse_covariance":
        return x, _solve(L, f)
    return _solve(L, x), f @ L


def require_full_rank(how: Precondition, batch: int, dim: int) -> None:
    """Refuse a batch of so few draws that their covariance is singular.

    Raises:
        UserError: a preconditioned method with a batch of at most ``dim`` draws.
    """
    if how != "none" and batch <= dim:
        raise UserError(
            f"method.precondition={how} needs a batch of more draws than the target has dimensions ({dim}), "
            f"not method.batch={batch}",
            f"give method.batch={dim + 1} or more, or method.precondition=none",
        )


def _solve(L: Tensor, x: Tensor) -> Tensor:
    """L^-1 applied to the rows of x."""
    return torch.linalg.solve_triangular(L, x.T, upper=False).T
