"""What exists: methods, targets and metrics, each registered by one decorator in its own file.

    @register("method", "ksivi", source="Cheng et al. 2024, arXiv:2405.18997")
    class KSIVI(Method): ...

Hyper-parameters and their defaults are read from the keyword-only arguments of the class's ``__init__``,
so a new component needs no YAML.  Third-party packages register through the entry-point group
``sivibench.plugins``; single files through the environment variable ``SIVIBENCH_PLUGINS``
(paths separated by ``os.pathsep``).
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import pkgutil
import sys
import traceback
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal

from bench.errors import UserError

Kind = Literal["method", "target", "metric", "baseline"]


@dataclass(frozen=True)
class Parameter:
    """One hyper-parameter: its annotation and default, as written in the signature."""

    annotation: Any
    default: Any


@dataclass(frozen=True)
class Entry:
    """A registered component."""

    kind: Kind
    name: str
    obj: Any
    source: str
    description: str
    parameters: dict[str, Parameter] = field(default_factory=dict)

    @property
    def version(self) -> int:
        return int(getattr(self.obj, "version", 1))


_ENTRIES: dict[Kind, dict[str, Entry]] = {"method": {}, "target": {}, "metric": {}, "baseline": {}}
_discovered = False


def register(kind: Kind, name: str, *, source: str, **attributes: Any) -> Callable[[Any], Any]:
    """Class or function decorator that puts a component into the registry.

    Args:
        kind: ``method``, ``target``, ``metric``, or ``baseline`` (``bench.speed.plain``, which alone imports them).
        name: what users write on the command line.
        source: paper or code the component follows, one line.
        attributes: set on the object (a metric's ``direction``, for example).

    Raises:
        ValueError: the name is taken by another object, or a hyper-parameter has no default.
    """

    def add(obj: Any) -> Any:
        known = _ENTRIES[kind].get(name)
        if known is not None and (known.obj.__module__, known.obj.__qualname__) != (obj.__module__, obj.__qualname__):
            raise ValueError(f"{kind} {name!r} is already registered by {known.obj.__module__}")
        for key, value in attributes.items():
            setattr(obj, key, value)
        description = (inspect.getdoc(obj) or "").split("\n")[0]
        parameters = _parameters(obj, name) if inspect.isclass(obj) else {}
        _ENTRIES[kind][name] = Entry(kind, name, obj, source, description, parameters)
        obj.registered_name = name
        return obj

    return add


def _parameters(cls: type[object], name: str) -> dict[str, Parameter]:
    hints = typing.get_type_hints(cls.__init__)
    found = {}
    for key, parameter in inspect.signature(cls.__init__).parameters.items():
        if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD and parameter.default is not parameter.empty:
            raise ValueError(f"{name}: put `*` before {key!r} in the signature: hyper-parameters are keyword-only")
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        if parameter.default is inspect.Parameter.empty:
            raise ValueError(f"{name}: hyper-parameter {key!r} needs a default in the signature")
        found[key] = Parameter(hints.get(key, Any), parameter.default)
    return found


def discover() -> None:
    """Import every module of methods/, targets/ and bench.metrics, then the plugins (once per process)."""
    global _discovered
    if _discovered:
        return
    _discovered = True  # first: a component may look into the registry while it is imported
    try:
        for package in ("methods", "targets", "bench.metrics"):
            import_modules(package)
        for plugin in entry_points(group="sivibench.plugins"):
            plugin.load()
        for path in filter(None, os.environ.get("SIVIBENCH_PLUGINS", "").split(os.pathsep)):
            _import_file(Path(path))
    except BaseException:
        _discovered = False
        raise


def import_modules(package: str) -> None:
    """Import every module of a package, which registers what they define; modules of its sub-packages stay unread."""
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")


def _import_file(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"SIVIBENCH_PLUGINS names {path}, which is not a file", "give the path of a Python file")
    where = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]  # files in two folders may share their name
    name = f"sivibench_plugin_{path.stem}_{where}"
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"SIVIBENCH_PLUGINS names {path}, which is not a Python file", "give the path of a .py file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    before = {kind: dict(known) for kind, known in _ENTRIES.items()}
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]  # with what it had registered, so that it can be mended and loaded again
        for kind, known in before.items():
            _ENTRIES[kind].clear()
            _ENTRIES[kind].update(known)
        if isinstance(error, UserError) or not isinstance(error, Exception):
            raise
        own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line = error.lineno if isinstance(error, SyntaxError) else own[-1].lineno if own else None
        raise UserError(
            f"the plugin {path} cannot be loaded: {type(error).__name__}: {error}",
            f"look at line {line}" if line else "SIVIBENCH_PLUGINS names it",
        ) from error


def entries(kind: Kind) -> dict[str, Entry]:
    """All components of a kind, sorted by name."""
    discover()
    return dict(sorted(_ENTRIES[kind].items()))


def get(kind: Kind, name: str) -> Entry:
    """The entry called ``name``; an unknown name fails with the available choices."""
    known = entries(kind)
    if name not in known:
        close = get_close_matches(name, known, n=1)
        guess = f"did you mean {close[0]!r}? " if close else ""
        raise UserError(f"unknown {kind} {name!r}", f"{guess}choose from: {', '.join(known)}")
    return known[name]
