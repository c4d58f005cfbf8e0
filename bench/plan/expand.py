"""The lines of a sweep, written in Hydra's override grammar, and their cartesian products."""

from __future__ import annotations

import hashlib
import itertools
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from bench.config.overrides import CONF, check_override, parse, says_where
from bench.errors import UserError


@dataclass(frozen=True)
class Sweep:
    """A sweep file.

    Attributes:
        name: the file's stem.
        title: heading of the report.
        overrides: lines of overrides; each line is expanded on its own, and a later line replaces what earlier
            lines say about the same method and target.
        exclude: patterns ``method/target`` (shell wildcards) of cells to leave out, and why; reports say it.
        results: results folder of this sweep, or None for the usual one.
        notes: how to read its tables; reports begin with them.
        report: whether a report is written at the end.
        replace: False: later lines add to what earlier lines say about the same method and target instead.
    """

    name: str
    title: str
    overrides: list[str]
    exclude: dict[str, str] = field(default_factory=dict)
    results: str | None = None
    notes: list[str] = field(default_factory=list)
    report: bool = False
    replace: bool = True


def load_sweep(name: str) -> Sweep:
    """Read ``conf/sweep/<name>.yaml``, or the file itself if ``name`` ends in .yaml.

    Raises:
        UserError: no such sweep, not YAML, an unknown or ill-typed key, or a line with an unclosed quote.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else CONF / "sweep" / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(found.stem for found in (CONF / "sweep").glob("*.yaml")))
        raise UserError(f"unknown sweep {name!r}", f"choose from: {known}; or give the path of a .yaml file")
    try:
        values: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
        values = {"title": path.stem, **values}
        merged = OmegaConf.merge(OmegaConf.structured(Sweep(path.stem, "", [])), values)
        sweep = OmegaConf.to_object(merged)
    # ValueError: it is no text; OSError: OmegaConf's for YAML that is neither a mapping nor a list
    except (YAMLError, OmegaConfBaseException, TypeError, ValueError, OSError) as error:
        keys = "title, overrides, exclude, results, notes, report, replace"
        raise UserError(
            f"cannot read the sweep {path}: {str(error).splitlines()[0]}",
            f"keys are: {keys}; exclude is a mapping, {{method/target: why}}",
        ) from error
    assert isinstance(sweep, Sweep)
    if not sweep.overrides:
        raise UserError(f"the sweep {path} has no overrides", "give a list of lines like `method=a,b target=c`")
    for number, line in enumerate(sweep.overrides, 1):
        _split(line, f"line {number} of the overrides of the sweep {path}")
    for pattern in sweep.exclude:
        if pattern.count("/") != 1:
            raise UserError(
                f"exclude of the sweep {path}: {pattern!r} names no cell",
                "write {method/target: why}, with patterns like sivi/banana or */funnel",
            )
    return sweep


def sweeps_of(results: Path) -> list[Sweep]:
    """The sweeps of conf/sweep that write into this results folder.

    Raises:
        UserError: one of the sweeps cannot be read.
    """
    sweeps = [load_sweep(path.stem) for path in sorted((CONF / "sweep").glob("*.yaml"))]
    return [sweep for sweep in sweeps if sweep.results and Path(sweep.results).resolve() == results.resolve()]


def sweep_of(lines: Sequence[str]) -> Sweep:
    """A sweep without a file; equal lines give equal names."""
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:6]
    return Sweep(f"adhoc-{digest}", " ".join(lines), list(lines))


def _split(line: str, where: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError as error:  # its words: "No closing quotation" or "No escaped character"
        raise UserError(
            f"cannot read {where}: {str(error).lower()} in {line!r}",
            "close the quote; a value that needs quotes itself is written \"key='a b'\"",
        ) from error


def expand(line: str, extra: Sequence[str], loader: ConfigLoader) -> Iterator[list[str]]:
    """All combinations of one line's values.

    Args:
        line: overrides separated by blanks, with Hydra's ``a,b``, ``range(n)``, ``choice(...)`` and ``glob(...)``.
        extra: overrides of the command line, which replace those of the line with the same key.
        loader: Hydra's config loader, which knows the choices a glob matches.

    Raises:
        UserError: an override does not follow the grammar, or one of the line says where to run.
    """
    parser = OverridesParser.create(config_loader=loader)
    own = _split(line, "a line of overrides")
    texts = [*own, *extra]
    parsed = dict(zip(texts, parse(texts, parser), strict=True))
    for text in own:
        if says_where(parsed[text]):
            raise UserError(
                f"{text!r} in the line {line!r} of a sweep: a sweep's lines say what to run, not where",
                f"take it out of the line, and write it on the command line: sivibench sweep NAME {text}",
            )
    last = {override.key_or_group: text for text, override in parsed.items()}
    options = []
    for text in last.values():
        override = parsed[text]
        check_override(text, override)
        if not override.is_sweep_override():
            options.append([text])
            continue
        values = list(override.sweep_string_iterator())
        if not values:
            raise UserError(f"{text!r} matches nothing", "`sivibench list` names what there is")
        options.append([f"{override.get_key_element()}={value}" for value in values])
    yield from (list(combination) for combination in itertools.product(*options))
