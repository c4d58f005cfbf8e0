"""Why a metric cannot be computed, in the same words everywhere (reports show them in the cell)."""

from __future__ import annotations

from methods.base import Method
from targets.base import Target

IMPLICIT = "q is implicit: it gives neither log_prob nor mixing and conditional"


def without_truth(target: Target) -> str | None:
    """The target has no draws that stand for p."""
    return None if "truth" in target.provides else "the target has neither exact nor reference draws"


def implicit(method: Method) -> str | None:
    """q has neither a density nor the parts of one."""
    unknown = type(method).log_prob is Method.log_prob and type(method).mixing is Method.mixing
    return IMPLICIT if unknown else None
