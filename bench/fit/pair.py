"""Whether a method can be built for its target, seen before anybody is told that it will be fitted."""

from __future__ import annotations

import torch

from bench.config import Config, build_method, build_target
from bench.errors import UserError
from bench.fit.members import initialise
from bench.registry import get
from targets.base import Target


def require_fit(config: Config, seed: int) -> None:
    """Build target and method once, to see that they fit.

    Raises:
        UserError: the two do not fit, data or a teacher are not here, or the target is not as targets are to be.
    """
    try:
        target = build_target(config)
        _require_sound(target)
        initialise(lambda: build_method(config, target), [seed])
    except UserError:
        raise
    except Exception:  # a result of the benchmark, whatever it is: the fit meets it again and it is recorded
        return


@torch.no_grad()
def _require_sound(target: Target) -> None:
    """Refuse mistakes of a new target that would show only after the fit, or never."""
    for name in (*target.metrics, *filter(None, [target.curve_metric])):
        get("metric", name)
    if "log_prob" in target.provides:
        shape = list(target.log_prob(torch.zeros(2, target.dim)).shape)
        if shape != [2]:
            raise UserError(
                f"target {target.registered_name!r}: log_prob of two points has shape {shape}, not [2]",
                "sum over the last dimension",
            )
