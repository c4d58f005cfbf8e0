"""Files of a report, drawn only when something they are made of has changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.environment import source_digest
from bench.files import write_atomic
from bench.report import published

SUFFIXES = ("md", "tex", "html")
"""The page with the stamp is written last, so that no other is older than it."""

TEMPLATES = Path(__file__).with_name("templates")


def write_pages(folder: Path, name: str, stamp: str, make: Callable[[], Mapping[str, str]]) -> dict[str, Path]:
    """Write ``<name>.html``, ``.md`` and ``.tex`` into ``folder``, unless those there bear the same stamp.

    Args:
        stamp: of ``make_stamp``; the HTML page holds it.
        make: the texts by suffix.

    Returns:
        {"html": path, ...}.

    Raises:
        UserError: full disk, no permission, read-only file system.
    """
    paths = {suffix: folder / f"{name}.{suffix}" for suffix in SUFFIXES}
    if all(path.exists() for path in paths.values()) and stamp in paths["html"].read_text(encoding="utf-8"):
        return paths  # the same records give the same bytes, and drawing takes seconds
    texts = make()
    for suffix, path in paths.items():
        write_atomic(path, texts[suffix].encode())
    return paths


def make_stamp(records: Iterable[dict[str, Any]], *parts: str) -> str:
    """What a report is made of: code, printed numbers, the records in any order, and parts such as its title."""
    read = [path for path in (*sorted(TEMPLATES.iterdir()), published.DEFAULT_PATH) if path.is_file()]
    texts = [path.read_text(encoding="utf-8") for path in read]
    everything = [source_digest(), *texts, *parts, *sorted(json.dumps(record, sort_keys=True) for record in records)]
    return hashlib.sha256("\0".join(everything).encode()).hexdigest()
