"""Figures as inline SVG whose text follows the page's colour; the same input gives the same bytes."""

from __future__ import annotations

import io
import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from typing import Any, NamedTuple

import matplotlib
import seaborn
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# stands for the page's text colour, which is not known before the reader's light or dark mode is
INK = "#010203"

COLOURS = [matplotlib.colors.to_hex(colour) for colour in seaborn.color_palette("tab10")]
LINES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (7, 1, 1, 1, 1, 1)))

CHARACTERS = 13
"""Of a title or a legend in an inch, at most; the page's font is not known."""
LINE = 0.18
"""Inches between lines of a title or a legend."""
HANDLE = 0.6
"""Inches that a legend takes beside a label."""
TICKS = 0.5
"""Inches that the labels of an axis take beside it, where its title has no room."""

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


class Look(NamedTuple):
    """How a configuration is drawn."""

    colour: str
    line: Any


def palette(methods: Mapping[str, str]) -> dict[str, Look]:
    """Label of a configuration -> look: a colour per method, readable on light and on dark, a line style within it.

    A method of more configurations than styles has further colours; of more methods than colours some share one, and
    styles tell them apart.

    Args:
        methods: label -> method.
    """
    found, used, colours, known, colour = dict[str, Look](), Counter[str](), cycle(COLOURS), "", ""
    for label, method in sorted(methods.items(), key=lambda item: (item[1], item[0])):
        if method != known or used[colour] % len(LINES) == 0:
            known, colour = method, next(colours)
        found[label] = Look(colour, LINES[used[colour] % len(LINES)])
        used[colour] += 1
    return found


def panels(titles: Sequence[str], columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with a panel per title, ``columns`` at most beside each other; sizes in inches per panel.

    Titles are wrapped to their panels, and the figure is higher by the lines that this takes.
    """
    columns = min(columns, len(titles))
    rows = -(-len(titles) // columns)
    wrapped = [wrap(title, width - TICKS) for title in titles]
    lines = [text.count("\n") for text in wrapped]
    more = LINE * sum(max(lines[i * columns : (i + 1) * columns]) for i in range(rows))
    figure = Figure(figsize=(columns * width, rows * height + more), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axis, title in zip(axes, wrapped, strict=False):
        axis.set_title(title)
    for spare in axes[len(titles) :]:
        spare.remove()
    return figure, axes[: len(titles)]


def wrap(text: str, width: float) -> str:
    """Text in lines that fit into ``width`` inches."""
    return textwrap.fill(text, max(int(width * CHARACTERS), 1), break_on_hyphens=False)


def entries(axes: Iterable[Axes]) -> dict[str, Any]:
    """Label -> handle of what the panels together would have in a legend."""
    found: dict[str, Any] = {}
    for axis in axes:
        handles, labels = axis.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    return found


def legend_below(figure: Figure, axes: Iterable[Axes]) -> None:
    """One legend for all panels, for which the figure grows: beside them, long labels would take their width."""
    found = entries(axes)
    width, height = figure.get_size_inches()
    labels = [wrap(label, width / 2 - HANDLE) for label in found]
    half = -(-len(labels) // 2)
    lines = max(sum(1 + label.count("\n") for label in column) for column in (labels[:half], labels[half:]))
    figure.set_size_inches(width, height + LINE * (lines + 1))
    figure.legend(list(found.values()), labels, loc="outside lower left", ncols=2)


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
