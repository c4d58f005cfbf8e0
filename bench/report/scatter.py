"""Draws of every method over the density of a 2-D target."""

from __future__ import annotations

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes

from bench.noise import generator
from bench.report import catalog
from bench.report.figures import INK, STYLE, panels, to_svg
from bench.report.table import Section
from targets.base import Target, Unsupported

GRID = 120
MASSES = (0.25, 0.5, 0.75, 0.95)
Window = tuple[tuple[float, float], tuple[float, float]]


def scatter(section: Section, colours: dict[str, str], prefix: str) -> tuple[str, str] | None:
    """(SVG, caption) with one panel per configuration that kept draws, or None if none did.

    The first finished seed is shown.  A target that cannot be built (any more) is left out, and the caption says why.
    """
    shown = []
    for group in section.groups:
        record = next((r for r in group.done if r.get("samples")), None)
        if record is not None and len(record["samples"][0]) == 2:
            shown.append((group.label, record["seed"], np.asarray(record["samples"], dtype=float)))
    if not shown:
        return None
    target, problem = _target(section)
    window = _window(target, [draws for _, _, draws in shown])
    with matplotlib.rc_context(STYLE):
        figure, axes = panels(len(shown), 4, 2.6, 2.75)
        for axis, (label, seed, draws) in zip(axes, shown, strict=True):
            background = _background(axis, target, window) if target is not None else ""
            axis.plot(*draws.T, ".", color=colours.get(label, "C0"), markersize=3, alpha=0.8, markeredgewidth=0,
                      rasterized=True)
            axis.set(xlim=window[0], ylim=window[1], title=f"{label} (seed {seed})", xticks=[], yticks=[])
            axis.set_aspect("auto")
            axis.spines[["top", "right"]].set_visible(True)
        svg = to_svg(figure, prefix, f"Draws of {len(shown)} fits on {section.problem.label}")
    inside = min(float(_inside(draws, window).mean()) for _, _, draws in shown)
    caption = f"Draws of the first finished seed{background if target is not None else ''}."
    caption += f" Density not drawn: {problem}." if problem else ""
    caption += f" At least {inside:.0%} of each method's draws lie inside the window." if inside < 1 else ""
    return svg, caption


def _target(section: Section) -> tuple[Target | None, str]:
    name = section.problem.name
    if not catalog.is_registered("target", name):
        return None, f"{name} is not registered"
    try:
        return catalog.build_target(section.problem.config), ""
    except (AssertionError, OSError, RuntimeError, TypeError, ValueError, Unsupported) as error:
        # records outlive code: a parameter may have been renamed since, and the table must still be printed
        return None, f"{name} cannot be built from its record ({type(error).__name__})"


def _window(target: Target | None, draws: list[np.ndarray]) -> Window:
    if target is not None and target.window is not None:
        (a, b), (c, d) = target.window
        return (float(a), float(b)), (float(c), float(d))
    low, high = np.quantile(np.concatenate(draws), [0.01, 0.99], axis=0)
    margin = 0.15 * (high - low) + 1e-6
    (a, c), (b, d) = (low - margin).tolist(), (high + margin).tolist()
    return (a, b), (c, d)


def _background(axis: Axes, target: Target, window: Window) -> str:
    """Draw the density (or, without one, exact draws); returns what was drawn."""
    x, y = (torch.linspace(*side, GRID) for side in window)
    points = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    try:
        with torch.no_grad():
            log_density = target.log_prob(points.reshape(-1, 2)).double().reshape(GRID, GRID).numpy()
    except Unsupported:
        return _truth(axis, target)
    density = np.exp(log_density - log_density.max())
    # highest-density regions: the level whose super-level set holds a given share of the mass
    ranked = np.sort(density.ravel())[::-1]
    mass = np.cumsum(ranked) / ranked.sum()
    levels = sorted({float(ranked[min(int(np.searchsorted(mass, m)), ranked.size - 1)]) for m in MASSES})
    axis.contour(x.numpy(), y.numpy(), density, levels=levels, colors=INK, linewidths=0.6, alpha=0.55)
    shares = ", ".join(f"{m:.0%}" for m in MASSES)
    return f" over the target's density; lines enclose {shares} of its mass inside the window"


def _truth(axis: Axes, target: Target) -> str:
    try:
        draws = target.truth(1000, generator("report", "truth")).numpy()
    except Unsupported:
        return ""
    axis.plot(*draws.T, ".", color="#888888", markersize=2, alpha=0.35, markeredgewidth=0, rasterized=True)
    return " over 1000 draws of the target (grey)"


def _inside(draws: np.ndarray, window: Window) -> np.ndarray:
    (a, b), (c, d) = window
    return (draws[:, 0] >= a) & (draws[:, 0] <= b) & (draws[:, 1] >= c) & (draws[:, 1] <= d)
