"""Thousands of configurations: Hydra composes once per method and per target, the rest is put into its results.

A compose takes a tenth of a second.  A method's part depends on the target only by the tuned file of the two, which is
merged in as Hydra would.  What one override of a value does to a composed configuration is asked of OmegaConf once
(type, structure, merging of dictionaries) and copied from then on.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from functools import cache
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench.config.compose import compose, compose_raw, make_config, plain
from bench.config.config import Config
from bench.config.overrides import CONF, check_override, parse
from bench.errors import UserError

GROUPS = ("method", "target", "train", "eval", "launcher", "tuned")


class Composer:
    """``compose`` for many overrides, with the same results and the same errors."""

    def __init__(self) -> None:
        self._bases: dict[tuple[str, ...], tuple[DictConfig, dict[str, Any]]] = {}
        self._raw: dict[tuple[str, ...], DictConfig] = {}
        self._values: dict[tuple[tuple[str, ...], str], Any] = {}

    def __call__(self, overrides: Sequence[str]) -> Config:
        """As ``bench.config.compose``.

        Raises:
            UserError: as ``bench.config.compose``.
        """
        try:
            values = self._plain(overrides)
        except (UserError, HydraException, OmegaConfBaseException, KeyError):
            values = None  # the slow way knows what to say
        return compose(overrides) if values is None else make_config(values, overrides)

    def _plain(self, overrides: Sequence[str]) -> dict[str, Any] | None:
        parsed = {text: _parsed(text) for text in overrides}
        groups = tuple(text for text, override in parsed.items() if override.key_or_group in GROUPS)
        values = {override.key_or_group: text for text, override in parsed.items() if text not in groups}
        # Interpolations and overlapping keys depend on more than one override.
        if any("$" in text for text in overrides) or len(values) + len(groups) < len(overrides) or _overlap(values):
            return None
        if groups not in self._bases:
            raw = self._joined([parsed[text] for text in groups])
            self._bases[groups] = raw, plain(raw)
        found = _copy(self._bases[groups][1])
        for key, text in values.items():
            if (groups, text) not in self._values:
                self._values[groups, text] = self._applied(groups, parsed[text])
            node = found
            *parents, leaf = key.split(".")
            for part in parents:
                node = node[part]
            node[leaf] = _copy(self._values[groups, text])
        return found

    def _joined(self, overrides: Sequence[Override]) -> DictConfig:
        """What Hydra composes from choices of groups; method and target are composed apart, where that is the same."""
        choices = {override.key_or_group: override.value() for override in overrides}
        texts = {override.key_or_group: override.input_line or "" for override in overrides}
        plain_choices = all(o.type is OverrideType.CHANGE and isinstance(o.value(), str) for o in overrides)
        if not plain_choices or not {"method", "target"} <= choices.keys() or choices.get("tuned", "none") != "none":
            return self._composed(*texts.values())
        file = CONF / "tuned" / f"{choices['method']}_{choices['target']}.yaml"
        tuned = OmegaConf.load(file) if "tuned" not in choices and file.exists() else OmegaConf.create()
        if not tuned.keys() <= {"method", "target", "train", "eval"}:  # config.yaml's own values come after it
            return self._composed(*texts.values())
        method, target = texts.pop("method"), texts.pop("target")
        rest = {**texts, "tuned": "tuned=none"}.values()
        raw = deepcopy(self._composed(method, *rest))
        raw.target = self._composed(target, *rest).target
        raw.merge_with(tuned)
        return raw

    def _composed(self, *groups: str) -> DictConfig:
        """What Hydra composes, once; it is kept, so it is copied before anything is changed in it."""
        if groups not in self._raw:
            self._raw[groups] = compose_raw(groups)
        return self._raw[groups]

    def _applied(self, groups: tuple[str, ...], override: Override) -> Any:
        """The value at the override's key once it is applied, as OmegaConf has it."""
        kept, key, given = self._bases[groups][0], override.key_or_group, override.value()
        top, _, rest = key.partition(".")
        branch = bool(rest) and OmegaConf.is_config(kept[top])  # copying less than the whole is a matter of speed
        # A copy, always: what is kept is what other cells start from, and `_joined` may be the next to copy it.
        config, key = deepcopy(kept[top] if branch else kept), rest if branch else key
        OmegaConf.update(config, key, given, merge=True)
        value = OmegaConf.select(config, key, throw_on_missing=True)
        return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


@cache
def _parsed(text: str) -> Override:
    [override] = parse([text], _parser())
    if override.is_sweep_override():
        raise UserError(f"{text!r} asks for several values")
    check_override(text, override)
    return override


@cache
def _parser() -> OverridesParser:
    return OverridesParser.create()


def _overlap(keys: dict[str, str]) -> bool:
    return any(other.startswith(f"{key}.") for key in keys for other in keys)


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return list(value) if isinstance(value, list) else value
