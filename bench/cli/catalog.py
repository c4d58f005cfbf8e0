"""``sivibench list``."""

from __future__ import annotations

import argparse
from typing import Any

from bench import registry
from bench.cli.shared import print_json
from bench.config.schema import expected

_KINDS: dict[str, registry.Kind] = {"methods": "method", "targets": "target", "metrics": "metric"}


def list_(args: argparse.Namespace) -> int:
    """Names, descriptions and sources; with ``--verbose`` the parameters too."""
    wanted = [args.what] if args.what else list(_KINDS)
    found = {plural: list(registry.entries(_KINDS[plural]).values()) for plural in wanted}
    if args.json:
        print_json({plural: [_as_dict(entry) for entry in entries] for plural, entries in found.items()})
        return 0
    for plural, entries in found.items():
        print(f"{plural} ({len(entries)})")
        width = max((len(entry.name) for entry in entries), default=0)
        for entry in entries:
            print(f"  {entry.name:{width}}  {entry.description}  [{entry.source}]")
            if args.verbose:
                for key, parameter in entry.parameters.items():
                    print(f"  {'':{width}}    {key}: {expected(parameter.annotation)} = {parameter.default!r}")
    return 0


def _as_dict(entry: registry.Entry) -> dict[str, Any]:
    parameters = {
        key: {"type": expected(parameter.annotation), "default": parameter.default}
        for key, parameter in entry.parameters.items()
    }
    about = {"name": entry.name, "description": entry.description, "source": entry.source, "version": entry.version}
    if entry.kind == "metric":
        about |= {"direction": entry.obj.direction, "unit": entry.obj.unit}
    return about | {"parameters": parameters}
