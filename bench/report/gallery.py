"""Grids of generated images, one per configuration that kept some."""

from __future__ import annotations

from markupsafe import Markup, escape

from bench.report.table import Section


def gallery(section: Section) -> Markup | None:
    """The pictures of the first finished seeds, each with its configuration's label; None if there are none."""
    shown = []
    for group in section.groups:
        record = next((r for r in group.done if r.get("images")), None)
        if record is not None:
            label = escape(f"{group.label} · seed {record['seed']}")
            source = escape(f"data:image/png;base64,{record['images']['png']}")
            shown.append(
                f'<figure><img src="{source}" alt="draws of {label}"><figcaption>{label}</figcaption></figure>'
            )
    return Markup(f'<div class="gallery">{"".join(shown)}</div>') if shown else None
