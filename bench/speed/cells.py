"""Which method is timed on which target."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench.config import build_method, build_target, compose
from bench.config.overrides import tuned_file
from bench.errors import UserError
from bench.registry import entries
from targets.fetch import local_only

Cell = tuple[str, str]


def every_method(preferred: Sequence[str]) -> list[Cell]:
    """Each method that is trained, on one target; without those that need files that are not here.

    The first of ``preferred`` for which it has tuned settings; else of all targets for which it has; else of
    ``preferred`` and then of all targets the first it can be fitted to.
    """
    methods = [name for name, entry in entries("method").items() if getattr(entry.obj, "trained", True)]
    with local_only():  # a look round is no reason to download
        found = [(method, next(_candidates(method, preferred), None)) for method in methods]
    return [(method, target) for method, target in found if target is not None]


def _candidates(method: str, preferred: Sequence[str]) -> Iterator[str]:
    targets = [*preferred, *entries("target")]
    tuned = [target for target in targets if tuned_file(method, target, ())]
    yield from (target for target in (*tuned, *targets) if _fits(method, target))


def _fits(method: str, target: str) -> bool:
    config = compose([f"method={method}", f"target={target}"])
    try:
        build_method(config, build_target(config))
    except UserError:  # it lacks what the method needs, or its data are not here
        return False
    return True
