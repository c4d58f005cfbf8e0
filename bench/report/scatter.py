"""Draws of every method over the density of a 2-D target."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes

from bench.errors import UserError
from bench.noise import generator
from bench.report import catalog
from bench.report.figures import INK, STYLE, Look, panels, to_svg
from bench.report.table import Section
from targets.base import Target, Unsupported

GRID = 120
MASSES = (0.25, 0.5, 0.75, 0.95)
Window = tuple[tuple[float, float], tuple[float, float]]


@dataclass(frozen=True)
class Backdrop:
    """What the draws are laid over: a density on a grid, or exact draws, or nothing."""

    caption: str = ""
    x: np.ndarray | None = None
    y: np.ndarray | None = None
    density: np.ndarray | None = None
    levels: tuple[float, ...] = ()
    """Ascending; the super-level sets hold the MASSES."""
    draws: np.ndarray | None = None

    def draw(self, axis: Axes) -> None:
        if self.density is not None:
            levels = list(self.levels)
            # grey, not INK: a rasterised layer cannot follow the page's colour, and as paths it would be large
            filled = axis.contourf(self.x, self.y, self.density, levels=[*levels, np.inf], colors="#888888", alpha=0.12)
            filled.set_rasterized(True)
            axis.contour(self.x, self.y, self.density, levels=levels, colors=INK, linewidths=0.6, alpha=0.6)
        if self.draws is not None:
            axis.plot(*self.draws.T, ".", color="#888888", markersize=2, alpha=0.35, markeredgewidth=0, rasterized=True)


def scatter(section: Section, looks: Mapping[str, Look], prefix: str) -> tuple[str, str] | None:
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
    backdrop = _backdrop(target) if target is not None else Backdrop()
    window = _window(backdrop, [draws for _, _, draws in shown])
    with matplotlib.rc_context(STYLE):
        figure, axes = panels([f"{label} · seed\N{NO-BREAK SPACE}{seed}" for label, seed, _ in shown], 4, 3.0, 2.9)
        for axis, (label, _, draws) in zip(axes, shown, strict=True):
            backdrop.draw(axis)
            colour = looks[label].colour
            axis.plot(*draws.T, ".", color=colour, markersize=4, alpha=0.8, markeredgewidth=0, rasterized=True)
            axis.set(xlim=window[0], ylim=window[1])
            axis.locator_params(nbins=5)
            axis.spines[["top", "right"]].set_visible(True)
        svg = to_svg(figure, prefix, f"Draws of {len(shown)} fits on {section.problem.label}")
    inside = min(float(_inside(draws, window).mean()) for _, _, draws in shown)
    caption = f"Draws of the first finished seed{backdrop.caption}."
    caption += f" Density not drawn: {problem}." if problem else ""
    share = f"{math.floor(1000 * inside) / 1000:.1%}"  # "at least" forbids to round up
    caption += f" At least {share} of each method's draws lie inside the picture." if inside < 1 else ""
    return svg, caption


def _target(section: Section) -> tuple[Target | None, str]:
    name = section.problem.name
    if not catalog.is_registered("target", name):
        return None, f"{name} is not registered"
    try:
        return catalog.build_target(section.problem.config).original(), ""
    except (AssertionError, OSError, RuntimeError, TypeError, ValueError, Unsupported, UserError) as error:
        # records outlive code: a parameter may have been renamed since, and the table must still be printed
        return None, f"{name} cannot be built from its record ({type(error).__name__})"


def _backdrop(target: Target) -> Backdrop:
    if "log_prob" in target.provides and target.window is not None:
        x, y = (torch.linspace(*side, GRID) for side in target.window)
        points = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2)
        with torch.no_grad():
            log_density = target.log_prob(points).double().reshape(GRID, GRID).numpy()
        density = np.exp(log_density - np.nanmax(log_density))
        # highest-density regions: the level whose super-level set holds a given share of the mass
        ranked = np.sort(density.ravel())[::-1]
        mass = np.cumsum(ranked) / ranked.sum()
        levels = tuple(sorted({float(ranked[min(int(np.searchsorted(mass, m)), len(ranked) - 1)]) for m in MASSES}))
        shares = ", ".join(f"{m:.0%}" for m in MASSES)
        caption = f" over the target's density; the lines enclose {shares} of its mass"
        return Backdrop(caption, x.numpy(), y.numpy(), density, levels)
    try:
        draws = target.truth(1000, generator("report", "truth")).numpy()
    except Unsupported:
        return Backdrop()
    return Backdrop(" over 1000 draws of the target (grey)", draws=draws)


def _window(backdrop: Backdrop, draws: list[np.ndarray]) -> Window:
    """The box of the bulk of the target and of every method's draws: a wide grid would leave the picture empty."""
    points = [np.quantile(d, [0.005, 0.995], axis=0) for d in draws]
    if backdrop.density is not None:
        assert backdrop.x is not None and backdrop.y is not None
        rows, columns = np.nonzero(backdrop.density >= backdrop.levels[0])
        points.append(np.stack([backdrop.x[columns], backdrop.y[rows]], axis=1))
    if backdrop.draws is not None:
        points.append(backdrop.draws)
    everything = np.concatenate(points)
    low, high = everything.min(axis=0), everything.max(axis=0)
    if backdrop.density is not None:
        # a method that has blown up must not shrink the target to a dot
        assert backdrop.x is not None and backdrop.y is not None
        low = np.maximum(low, [backdrop.x[0], backdrop.y[0]])
        high = np.minimum(high, [backdrop.x[-1], backdrop.y[-1]])
    margin = 0.06 * (high - low) + 1e-6
    (a, c), (b, d) = (low - margin).tolist(), (high + margin).tolist()
    return (a, b), (c, d)


def _inside(draws: np.ndarray, window: Window) -> np.ndarray:
    (a, b), (c, d) = window
    return (draws[:, 0] >= a) & (draws[:, 0] <= b) & (draws[:, 1] >= c) & (draws[:, 1] <= d)
