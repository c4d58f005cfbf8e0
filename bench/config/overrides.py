"""Overrides looked at before Hydra composes: grammar, choices, and what may be overridden at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from bench import registry
from bench.errors import UserError

# An absolute folder, because pkg://conf is shadowed by any conf.py in the working directory.
CONF = Path(__file__).resolve().parents[2] / "conf"


def parse(overrides: Sequence[str], parser: OverridesParser | None = None) -> list[Override]:
    """Hydra's own parser with a readable error.

    Raises:
        UserError: an override does not follow the grammar.
    """
    parser = parser or OverridesParser.create()
    found = []
    for text in overrides:
        try:
            found += parser.parse_overrides([text])  # the plural alone hands the loader on, which globs need
        except HydraException as error:
            detail = str(error).splitlines()[1:2] or [str(error)]
            raise UserError(
                f"cannot read the override {text!r}: {detail[0].strip()}",
                "write key=value, for example train.iterations=2000; quote values with special characters",
            ) from error
    return found


def check_overrides(overrides: Sequence[str]) -> None:
    """Refuse what one configuration cannot hold.

    Raises:
        UserError: malformed, a sweep, an added or deleted key, or an unknown method or target.
    """
    for text, override in zip(overrides, parse(overrides), strict=True):
        if override.is_sweep_override():
            raise UserError(
                f"{text!r} asks for several values",
                "use `sivibench sweep` for that, or [a,b] if a list is meant",
            )
        check_override(text, override)


def check_override(text: str, override: Override) -> None:
    """Refuse additions, deletions, a changed name and unknown choices of method and target.

    Raises:
        UserError: see above; a sweep's choices are checked once it is expanded.
    """
    key = override.key_or_group
    if override.is_add() or override.is_delete():
        raise UserError(f"{text!r} adds or deletes a key", "keys are fixed by the signatures: write key=value")
    if key in ("method.name", "target.name"):
        group = key.split(".")[0]
        raise UserError(f"{key} cannot be set", f"choose with {group}={override.get_value_element_as_str()}")
    if key in ("method", "target") and not override.is_sweep_override():
        registry.get(key, str(override.value()))  # type: ignore[arg-type]
    if key == "tuned" and not override.is_sweep_override():
        _check_tuned(str(override.value()))


def _check_tuned(name: str) -> None:
    # Hydra would skip a missing file without a word, because the group is optional.
    known = sorted(path.stem for path in (CONF / "tuned").glob("*.yaml"))
    if name not in ("none", *known):
        raise UserError(f"unknown tuned configuration {name!r}", f"choose from: none, {', '.join(known)}")
