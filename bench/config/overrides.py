"""Overrides looked at before Hydra composes: grammar, choices, and what may be overridden at all."""

from __future__ import annotations

import re
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
            raise UserError(
                f"cannot read the override {text!r}: {_complaint(text, str(error))}",
                "write key=value, for example train.iterations=2000; quote values with special characters",
            ) from error
    return found


def _complaint(text: str, said: str) -> str:
    """What is wrong with an override, from the parser's words, which are about tokens and carets."""
    if "LexerNoViableAlt" in said:  # the text, and below it a caret at the character that begins no token
        first, caret = (*said.splitlines(), "", "")[:2]
        at = caret.find("^") - first.find(text)
        if text in first and 0 <= at < len(text):
            quote = text[at] in "'\"" and text.count(text[at]) % 2
            return f"the quote {text[at]} is not closed" if quote else f"unexpected {text[at]!r} (character {at + 1})"
        return "it has a quote that is not closed, or a character that needs quotes"
    if "no viable alternative" in said:
        unclosed = any(text.count(a) > text.count(b) for a, b in ("[]", "{}", "()"))
        return "a bracket is not closed" if unclosed else "it ends in the middle of a value"
    if "missing EQUAL" in said:
        return "there is no '=' in it"
    if found := re.search(r"(?:mismatched|extraneous) input '(.*?)' expecting", said):
        return "it ends too early" if found[1] == "<EOF>" else f"unexpected {found[1]!r}"
    lines = [line.strip() for line in said.splitlines()]
    return next((line for line in lines if line and not line.startswith(("Error parsing", "See "))), said.strip())


def says_where(override: Override) -> bool:
    """Whether an override is about where to run (``launcher``, ``launcher.<key>``, ``site``) and not about what."""
    key = override.key_or_group
    return key in ("launcher", "site") or key.startswith("launcher.")


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
    """Refuse additions, deletions, a changed name and choices that are unknown or no names.

    Raises:
        UserError: see above; a sweep's choices are checked once it is expanded.
    """
    key = override.key_or_group
    if not key:
        raise UserError(f"{text!r} names no key", "write key=value, for example train.iterations=2000")
    if override.is_add() or override.is_delete():
        raise UserError(f"{text!r} adds or deletes a key", "keys are fixed by the signatures: write key=value")
    if key in ("method.name", "target.name"):
        group = key.split(".")[0]
        raise UserError(f"{key} cannot be set", f"choose with {group}={override.get_value_element_as_str()}")
    if key in ("method", "target") and not override.is_sweep_override():
        registry.get(key, str(override.value()))  # type: ignore[arg-type]
    if key == "tuned" and not override.is_sweep_override():
        _check_tuned(str(override.value()))
    if key in ("train", "eval", "launcher") and not (
        override.is_sweep_override() or isinstance(override.value(), str | dict)
    ):
        known = sorted(path.stem for path in (CONF / key).glob("*.yaml"))
        raise UserError(f"{text!r} names no {key} configuration", f"choose from: {', '.join(known)}")


def tuned_file(method: str, target: str, overrides: Sequence[str]) -> Path | None:
    """The file of ``conf/tuned`` whose settings apply, as ``config.yaml`` chooses it; None if there is none."""
    chosen = {override.key_or_group: override for override in parse(overrides)}
    name = str(chosen["tuned"].value()) if "tuned" in chosen else f"{method}_{target}"
    path = CONF / "tuned" / f"{name}.yaml"
    return path if name != "none" and path.is_file() else None


def _check_tuned(name: str) -> None:
    # Hydra would skip a missing file without a word, because the group is optional.
    known = sorted(path.stem for path in (CONF / "tuned").glob("*.yaml"))
    if name not in ("none", *known):
        raise UserError(f"unknown tuned configuration {name!r}", f"choose from: none, {', '.join(known)}")
