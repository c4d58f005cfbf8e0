"""Reference draws: long-run samples standing for a posterior without exact draws, kept with their provenance."""

from __future__ import annotations

import copy
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.errors import UserError
from bench.noise import generator
from targets.base import Target

RHAT_LIMIT = 1.01
ESS_LIMIT = 4000
"""Draws that miss either limit are not written."""


def generate(
    target: Target, *, chains: int = 64, burn_in: int = 2000, draws: int = 8000, thin: int = 125, seed: int = 0
) -> tuple[Tensor, dict[str, Any]]:
    """Sample ``target`` by preconditioned MALA in float64.

    Args:
        target: with one mode; left as it is (a float64 copy is sampled).
        chains: number of chains, started over-dispersed around the mode.
        burn_in: iterations per chain in which step size and preconditioner adapt; discarded.
        draws: iterations per chain after that; all of them enter the posterior summaries.
        thin: every thin-th of these is stored.
        seed: of the isolated random stream.

    Returns:
        Nearly independent draws [chains * (draws // thin), d] in float64, and the sampler's part of the provenance.
    """
    from bench.reference.diagnostics import diagnose
    from bench.reference.mala import laplace, mala

    started = time.perf_counter()
    target = copy.deepcopy(target).to("cpu", torch.float64)
    mode, scale = laplace(target)
    stream = generator(seed, "reference", type(target).__name__)
    found = mala(target, mode, scale, chains=chains, burn_in=burn_in, draws=draws, generator=stream)
    info = {
        "sampler": "MALA in float64, preconditioned by the covariance seen during burn-in",
        "arguments": {"chains": chains, "burn_in": burn_in, "draws": draws, "thin": thin, "seed": seed},
        "acceptance": round(found.acceptance, 4),
        "step_size": round(found.step, 6),
        **diagnose(found.draws),
        "seconds": round(time.perf_counter() - started, 1),
    }
    return found.draws[:, thin - 1 :: thin].reshape(-1, target.dim), info


def regenerate(name: str, output_dir: Path | str | None = None, **arguments: int) -> dict[str, Any]:
    """Make the reference draws of a registered target and write them with their provenance.

    Args:
        name: registered name of a target whose class says ``reference_sampler = "mala"``.
        output_dir: folder of ``<name>.npz`` and ``<name>.json``; the package's ``targets/reference`` when None.
        arguments: of ``generate``, where they differ from its defaults.

    Returns:
        The provenance as written.

    Raises:
        UserError: the target may have several modes, its data are missing, or the chains did not converge.
    """
    from bench.reference.provenance import provenance
    from bench.registry import get
    from targets.stored_draws import FOLDER, save_reference

    entry = get("target", name)
    if entry.obj.reference_sampler != "mala":
        raise UserError(
            f"{name} has no reference sampler",
            "MALA cannot certify modes it never saw: use exact draws, or set reference_sampler = 'mala' on a target "
            "known to have one mode",
        )
    draws, info = generate(entry.obj(), **arguments)
    if not info["rhat_max"] < RHAT_LIMIT or not min(info["ess_bulk_min"], info["ess_tail_min"]) >= ESS_LIMIT:
        raise UserError(
            f"the chains of {name} did not converge: R-hat {info['rhat_max']} (limit {RHAT_LIMIT}), "
            f"ESS {info['ess_bulk_min']} bulk, {info['ess_tail_min']} tail (at least {ESS_LIMIT})",
            "nothing was written; raise burn_in and draws",
        )
    about = {
        "target_version": entry.version,
        "target_parameters": {key: parameter.default for key, parameter in entry.parameters.items()},
        **info,
        **provenance(),
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    return save_reference(name, draws, about, Path(output_dir) if output_dir is not None else FOLDER)
