"""What the registry knows about the names found in records; names no longer registered are answered with defaults."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from bench.config.schema import arguments
from bench.registry import Entry, Kind, entries
from targets.base import Target


@dataclass(frozen=True)
class MetricInfo:
    """How a metric's column is read: attributes of ``bench.metrics.base.Metric``, known or of one that is not here."""

    direction: str = "lower"
    unit: str = ""
    ranked: bool = True
    floor_is_noise: bool = True
    published_as: tuple[tuple[str, str], ...] = ()
    published_setting: str = ""


def _entry(kind: Kind, name: str) -> Entry | None:
    return entries(kind).get(name)


def metric_info(name: str) -> MetricInfo:
    """Direction, unit and published names of a metric."""
    entry = _entry("metric", name)
    if entry is None:
        return MetricInfo()
    cls = entry.obj
    return MetricInfo(**{f.name: getattr(cls, f.name) for f in fields(MetricInfo)})


def paper_name(method: str) -> str:
    """The name papers print for a method: its class attribute ``paper_name``, else its name in capitals."""
    entry = _entry("method", method)
    return (entry.obj.paper_name if entry else "") or method.upper()


def target_metrics(name: str) -> tuple[str, ...]:
    """The target's metrics, headline first; empty when the target is unknown or decides on construction."""
    entry = _entry("target", name)
    found = getattr(entry.obj, "metrics", ()) if entry else ()
    return tuple(found) if isinstance(found, tuple | list) else ()


def changed(kind: Kind, config: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a configured component that differ from the defaults in its signature.

    All of them when the component is unknown.  ``name`` and ``version`` are not parameters.  Options that the
    configuration lacks because they came later have the value meaning "as before".
    """
    entry = _entry(kind, config.get("name", ""))
    config = {**(entry.obj.added if entry else {}), **config}
    defaults = {key: parameter.default for key, parameter in entry.parameters.items()} if entry else {}
    return {
        key: value
        for key, value in sorted(config.items())
        if key not in ("name", "version") and (key not in defaults or _plain(defaults[key]) != _plain(value))
    }


def is_registered(kind: Kind, name: str) -> bool:
    """Whether the name can still be run."""
    return _entry(kind, name) is not None


def is_trained(method: str) -> bool:
    """Whether a method has anything to fit; one that is no longer registered is taken to have."""
    entry = _entry("method", method)
    return bool(entry.obj.trained) if entry else True


def needs_teacher(method: str) -> bool:
    """Whether a method learns from a diffusion teacher; one that is no longer registered is taken to."""
    entry = _entry("method", method)
    return entry is None or "teacher" in entry.obj.needs


def default_teacher(target: str) -> str:
    """The teacher a target takes where none is named; empty where it has no such thing."""
    entry = _entry("target", target)
    return str(entry.obj.default_teacher) if entry else ""


def has_exact_teacher(target: str) -> bool:
    """Whether the noised marginals of a target are known, so that its diffusion needs no trained network."""
    entry = _entry("target", target)
    return entry is not None and getattr(entry.obj, "noised", None) is not Target.noised


def build_target(config: dict[str, Any]) -> Target:
    """The target a record's configuration describes.

    Raises:
        KeyError: the target is not registered.
        UserError: the values are of another version, or impossible.
    """
    entry = entries("target")[config["name"]]
    target = entry.obj(**arguments(entry, config))
    assert isinstance(target, Target)
    return target


def unmet_needs(method: str, target: str) -> str:
    """Why a method cannot run on a target ("needs bridge"), or an empty string."""
    method_entry, target_entry = _entry("method", method), _entry("target", target)
    if method_entry is None or target_entry is None or not isinstance(target_entry.obj, type):
        return ""
    try:
        # ``provides`` compares classes, so an instance without its data is enough
        cls: Any = target_entry.obj
        provides = cls.provides.fget(cls.__new__(cls))
    except Exception:  # noqa: BLE001 - a target may compute it from its data; the reason is then left open
        return ""
    missing = sorted(method_entry.obj.needs - provides)
    return f"needs {', '.join(missing)}" if missing else ""


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
