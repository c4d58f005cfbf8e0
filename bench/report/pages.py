"""Files of a report, drawn only when something they are made of has changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.environment import source_digest

SUFFIXES = ("html", "md", "tex")


def write_pages(folder: Path, name: str, stamp: str, make: Callable[[], Mapping[str, str]]) -> dict[str, Path]:
    """Write ``<name>.html``, ``.md`` and ``.tex`` into ``folder``, unless those there bear the same stamp.

    Args:
        stamp: of ``make_stamp``; the HTML page holds it.
        make: the texts by suffix.

    Returns:
        {"html": path, ...}.
    """
    paths = {suffix: folder / f"{name}.{suffix}" for suffix in SUFFIXES}
    if all(path.exists() for path in paths.values()) and stamp in paths["html"].read_text(encoding="utf-8"):
        return paths  # the same records give the same bytes, and drawing takes seconds
    texts = make()
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, path in paths.items():
        path.write_text(texts[suffix], encoding="utf-8", newline="\n")
    return paths


def make_stamp(records: Iterable[dict[str, Any]], *parts: str) -> str:
    """What a report is made of: the code, the records in any order, and further parts such as its title."""
    everything = [source_digest(), *parts, *sorted(json.dumps(record, sort_keys=True) for record in records)]
    return hashlib.sha256("\0".join(everything).encode()).hexdigest()
