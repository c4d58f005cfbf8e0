"""Convergence figures of many chains, per coordinate (arviz-stats; Vehtari et al. 2021)."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

DIGITS = 6


def diagnose(draws: Tensor) -> dict[str, Any]:
    """Rank-normalised split R-hat, bulk and tail ESS, and Monte Carlo standard errors of mean and sd.

    Args:
        draws: all kept draws, [chains, draws, d].

    Returns:
        Posterior mean and sd, their MCSE, and the worst R-hat and ESS over coordinates; lists have d entries.
    """
    from arviz_stats.base import array_stats

    x = draws.numpy()
    axes = {"chain_axis": 0, "draw_axis": 1}
    rhat = np.asarray(array_stats.rhat(x, method="rank", **axes))
    bulk = np.asarray(array_stats.ess(x, method="bulk", **axes))
    tail = np.asarray(array_stats.ess(x, method="tail", prob=(0.05, 0.95), **axes))
    return {
        "rhat_max": _rounded(rhat.max()),
        "ess_bulk_min": _rounded(bulk.min()),
        "ess_tail_min": _rounded(tail.min()),
        "mean": _rounded(x.mean((0, 1))),
        "sd": _rounded(x.std((0, 1), ddof=1)),
        "mcse_mean": _rounded(array_stats.mcse(x, method="mean", **axes)),
        "mcse_sd": _rounded(array_stats.mcse(x, method="sd", **axes)),
    }


def _rounded(value: Any) -> Any:
    """Plain floats with ``DIGITS`` significant digits, so that the provenance file stays readable."""
    flat = [float(f"{v:.{DIGITS}g}") for v in np.ravel(value)]
    return flat if np.ndim(value) else flat[0]
