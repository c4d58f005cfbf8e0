"""Figures as inline SVG whose text follows the page's colour; the same input gives the same bytes."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from typing import Any

import matplotlib
import seaborn
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# stands for the page's text colour, which is not known before the reader's light or dark mode is
INK = "#010203"

STYLE: Any = {
    "svg.hashsalt": "sivibench",
    "svg.fonttype": "none",
    "path.simplify": True,
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.linewidth": 0.6,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "figure.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 8,
}


def palette(labels: Iterable[str]) -> dict[str, str]:
    """One colour per label, readable on light and on dark."""
    names = sorted(set(labels))
    colours = seaborn.color_palette("tab10" if len(names) <= 10 else "husl", len(names))
    return dict(zip(names, map(matplotlib.colors.to_hex, colours), strict=True))


def panels(n: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with n panels, ``columns`` at most beside each other; sizes in inches per panel."""
    columns = min(columns, n)
    rows = -(-n // columns)
    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for spare in axes[n:]:
        spare.remove()
    return figure, axes[:n]


def to_svg(figure: Figure, prefix: str, description: str) -> str:
    """The figure as an ``<svg>`` element for a page: unique ids, no metadata, accessible name."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", dpi=144, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg ") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{prefix}-", text).replace(INK, "currentColor")
    label = description.replace("&", "and").replace('"', "'").replace("<", "")
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1).strip()
