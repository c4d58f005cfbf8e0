"""Calls of the fused passes of KPG-IS (``kpg_pairs.cpp``), one seed at a time."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from bench.native import Library

_INT64, _POINTER = ctypes.c_int64, ctypes.c_void_p

LIBRARY = Library(
    "kpg",
    "the fused KPG-IS direction",
    Path(__file__).with_name("kpg_pairs.cpp"),
    headers=("stein_select.hpp",),
    functions={
        "sivibench_kpg_gather": [*[_INT64] * 6, *[_POINTER] * 10],
        "sivibench_kpg_forward": [*[_INT64] * 2, *[_POINTER] * 8],
        "sivibench_kpg_direction": [*[_INT64] * 6, ctypes.c_int, *[_POINTER] * 13],
    },
)


def pointer(t: Tensor | None) -> int | None:
    """Address of a contiguous tensor, None for none."""
    assert t is None or t.is_contiguous()
    return None if t is None else t.data_ptr()


def gather(
    first: int,
    last: int,
    u: Tensor | None,
    moments: tuple[Tensor, Tensor, Tensor],
    draws: tuple[Tensor, Tensor],
    out: tuple[Tensor, Tensor, Tensor, Tensor],
) -> int:
    """Pack the Gaussian draws that rows first..last-1 use; returns how many.

    Args:
        first, last: the rows.
        u: uniforms [N, l]; index i of row j takes a Gaussian draw where u >= alpha.  None: every draw is used.
        moments: alpha [N, 1], m [N, k] and s [N, k].
        draws: eps [N, c, k] and xi [N, c, d].
        out: room for z [., k], xi [., d] and the log odds, and the numbers of draws of all rows, [N] int64.
    """
    native = LIBRARY.get()
    assert native is not None, "callers ask importance_backend() first"
    (alpha, m, s), (eps, xi), (z, own_xi, odds, count) = moments, draws, out
    l = 0 if u is None else u.shape[1]
    tensors = (u, alpha, m, s, eps, xi, z, own_xi, odds, count)
    return native.sivibench_kpg_gather(
        first, last, l, eps.shape[1], m.shape[1], xi.shape[2], *(pointer(t) for t in tensors)
    )


class Network:
    """x' = mu(z) + sigma xi and u = xi / sigma for a ReLU network mu.

    Args:
        layers: weight [n_out, n_in] and bias [n_out] of each linear map, in turn; kept alive by this object.
        sigma: [d].
    """

    def __init__(self, layers: Sequence[Tensor], sigma: Tensor) -> None:
        weights, biases = layers[::2], layers[1::2]
        widths = [weights[0].shape[1], *(w.shape[0] for w in weights)]
        self._kept, self._count, self._sigma, self.dim = list(layers), len(weights), sigma, widths[-1]
        self._widths = (ctypes.c_int64 * len(widths))(*widths)
        self._weights = (ctypes.c_void_p * len(weights))(*map(pointer, weights))
        self._biases = (ctypes.c_void_p * len(biases))(*map(pointer, biases))

    def __call__(self, z: Tensor, xi: Tensor, y: Tensor, u: Tensor) -> None:
        """Write x' and u for rows z [n, k], xi [n, d] to y and u, [n, d]."""
        native = LIBRARY.get()
        assert native is not None, "callers ask importance_backend() first"
        parameters = (self._widths, self._weights, self._biases)
        tensors = (self._sigma, z, xi, y, u)
        native.sivibench_kpg_forward(len(z), self._count, *parameters, *(pointer(t) for t in tensors))


def weigh(
    x: Tensor,
    u: Tensor | None,
    moments: tuple[Tensor, Tensor, Tensor],
    shared: tuple[Tensor, Tensor, Tensor],
    own: tuple[Tensor, Tensor, Tensor, Tensor],
    slots: int,
    bandwidth: str,
    out: Tensor,
) -> None:
    """The direction at x [N, d], written to ``out``.

    Args:
        x: the points.
        u: as in ``gather``.
        moments: as in ``gather``.
        shared: z [l, k], y [l, d] and the score difference f [l, d] of the draws from the prior.
        own: y [n, d], f [n, d] and log odds [n] of the packed Gaussian draws, and their numbers per row, [N] int64.
        slots: c, draws per row (where all are used).
        bandwidth: ``detached`` or ``bisection``.
        out: [N, d].
    """
    native = LIBRARY.get()
    assert native is not None, "callers ask importance_backend() first"
    (alpha, m, s), (z, y, f), (own_y, own_f, odds, count) = moments, shared, own
    sizes = (len(x), len(z), slots, len(own_y), m.shape[1], x.shape[1], int(bandwidth == "bisection"))
    tensors = (x, m, s, alpha, u, z, y, f, own_y, own_f, odds, count, out)
    native.sivibench_kpg_direction(*sizes, *(pointer(t) for t in tensors))
