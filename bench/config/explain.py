"""Hydra's and OmegaConf's errors in one sentence each, with what to do next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from typing import Any

from hydra.errors import MissingConfigException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, ValidationError

from bench import registry
from bench.config.overrides import parse
from bench.config.schema import Eval, Launcher, Paths, Root, Train, Wandb, expected
from bench.errors import UserError

_FLAGS = {"paths.results": "--results DIR"}
"""Keys with an option of the command line, which is what most people look for."""

_TYPED = {"": Root, "train": Train, "eval": Eval, "paths": Paths, "wandb": Wandb, "launcher": Launcher}


def explain(
    error: Exception, overrides: Sequence[str], compose: Callable[[Sequence[str]], dict[str, Any]]
) -> UserError:
    """The ``UserError`` for an exception of Hydra's compose.

    Args:
        error: what Hydra or OmegaConf raised.
        overrides: what was asked for.
        compose: composes plain values, used to list the keys that do exist.
    """
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.partition("/")
        if name:
            options = [option for option in error.options or [] if not option.startswith("_")]
            return UserError(f"unknown {group} {name!r}", f"choose from: {', '.join(options)}")
    cause = error if getattr(error, "full_key", None) else error.__cause__
    key = str(getattr(cause, "full_key", None) or "")
    given = {o.key_or_group: text for o, text in zip(parse(overrides), overrides, strict=True)}
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and key:
        return _unknown_key(key, given, overrides, compose)
    if isinstance(cause, ValidationError) and key:
        return _wrong_type(key, given, str(cause), overrides, compose)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return UserError(
        f"the configuration cannot be composed: {': '.join(lines[:2])}", "check the override or the file named"
    )


def _unknown_key(
    key: str, given: dict[str, str], overrides: Sequence[str], compose: Callable[[Sequence[str]], dict[str, Any]]
) -> UserError:
    parent, _, leaf = key.rpartition(".")
    text = next((text for name, text in given.items() if name == key or name.startswith(f"{key}.")), None)
    everything = compose(_groups_only(overrides))
    available = _keys(parent, everything)
    names = [name for name in available if name not in ("name", "method", "target")] if parent else available
    meant = _meant(parent, leaf, names, everything)
    guess = f"did you mean {' or '.join(map(_as_given, meant))}? " if meant else ""
    where = f"in {text!r}" if text else "in a configuration file (conf/tuned?)"
    listed = f"keys of {parent or 'the configuration'}: {', '.join(names) or 'none'}"
    return UserError(f"unknown key {key!r} {where}", guess + listed)


def _meant(parent: str, leaf: str, names: Sequence[str], everything: dict[str, Any]) -> list[str]:
    """Keys that may be meant: those with the same last part, else the likest, beside it or (if very like) anywhere."""
    by_leaf: dict[str, list[str]] = {}
    for path in _paths(everything):
        by_leaf.setdefault(path.rpartition(".")[2], []).append(path)
    if leaf in by_leaf:
        return by_leaf[leaf]
    far = get_close_matches(leaf, by_leaf, n=1, cutoff=0.75)  # among so many names a faint likeness is chance
    for likest in get_close_matches(leaf, [*get_close_matches(leaf, names, n=1), *far], n=1):
        return [f"{parent}.{likest}" if parent else likest] if likest in names else by_leaf[likest]
    return []


def _paths(node: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Every key that can be set, with dots."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _paths(value, f"{prefix}{key}.")
        elif not (prefix and key == "name"):  # the choice itself: method=..., never method.name=...
            yield prefix + key


def _as_given(key: str) -> str:
    return f"{_FLAGS[key]} (as a key: {key})" if key in _FLAGS else key


def _wrong_type(
    key: str, given: dict[str, str], detail: str, overrides: Sequence[str], compose: Callable[..., dict[str, Any]]
) -> UserError:
    base = key.split("[")[0]
    text = given.get(base) or next((text for name, text in given.items() if name.startswith(f"{base}.")), None)
    kind = _expected(base, overrides, compose)
    if text is None:
        return UserError(
            f"{key} has the wrong type in a configuration file: {detail.splitlines()[0]}", f"expected {kind}"
        )
    return UserError(f"wrong type in {text!r}", f"{base} expects {kind}")


def _keys(parent: str, everything: dict[str, Any]) -> list[str]:
    node: Any = everything
    for part in filter(None, parent.split(".")):
        node = node.get(part, {}) if isinstance(node, dict) else {}
    return list(node) if isinstance(node, dict) else []


def _expected(key: str, overrides: Sequence[str], compose: Callable[..., dict[str, Any]]) -> str:
    group, _, leaf = key.partition(".")
    if group in ("method", "target") and leaf:
        name = compose(_groups_only(overrides))[group]["name"]
        parameter = registry.get(group, name).parameters.get(leaf)  # type: ignore[arg-type]
        if parameter is not None:
            return f"{expected(parameter.annotation)} (default {parameter.default!r})"
    owner, _, leaf = key.rpartition(".")
    annotation = getattr(_TYPED.get(owner), "__annotations__", {}).get(leaf)
    return str(annotation or "another type")


def _groups_only(overrides: Sequence[str]) -> list[str]:
    return [text for o, text in zip(parse(overrides), overrides, strict=True) if o.key_or_group in ("method", "target")]
