"""Which of a method's configurations stands for it where it has a single place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from omegaconf import OmegaConf

from bench.config.overrides import tuned_file
from bench.report import catalog
from bench.report.groups import Group

STANDING = (
    "Of several configurations of a method (+n: so many more) the one nearest to its settings for the target stands "
    "here, by the number of settings that differ from conf/tuned or the defaults, then the longest fit; never by its "
    "result."
)

UNUSUAL = (
    "*: no run has the method's settings for this target (conf/tuned or the defaults); value and rank are of "
    "other settings."
)


def standing(groups: Iterable[Group]) -> dict[str, Group]:
    """Method -> the configuration that stands for it on one problem, as ``STANDING`` says."""
    chosen: dict[str, Group] = {}
    for group in sorted(groups, key=_preference):
        chosen.setdefault(group.method, group)
    return chosen


def _preference(group: Group) -> tuple[int, int, str]:
    iterations = group.records[0]["config"].get("train", {}).get("iterations", 0)
    return deviations(group), -iterations, group.config_id


def deviations(group: Group) -> int:
    """Hyper-parameters that have another value than conf/tuned gives for the pair, or the defaults without such."""
    has = catalog.changed("method", group.records[0]["config"].get("method", {}))
    due = catalog.changed("method", {"name": group.method, **_tuned(group.method, group.problem.name)})
    absent = object()
    return sum(has.get(key, absent) != due.get(key, absent) for key in has.keys() | due.keys())


def _tuned(method: str, target: str) -> dict[str, Any]:
    path = tuned_file(method, target, ())
    found: Any = OmegaConf.to_container(OmegaConf.load(path)) if path else {}
    return dict(found.get("method", {}))
