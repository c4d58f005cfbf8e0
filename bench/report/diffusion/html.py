"""The comparison as one self-contained HTML page."""

from __future__ import annotations

from markupsafe import Markup

from bench.report.diffusion import render
from bench.report.diffusion.figures import Looks, against_nfe, against_seconds, looks
from bench.report.diffusion.published import Quoted
from bench.report.diffusion.table import Comparison, Sheet
from bench.report.html import Illustration, describe_run, make_environment
from bench.report.markdown import protocols
from bench.report.summary import provenance
from bench.stats import RANK_RULE

QUALITY = (
    "Solid lines: trained samplers; dashed: solvers. A line runs through a method's best setting at each NFE, its "
    "other settings are points, hollow ones untrained. Bands and bars span lowest to highest seed; dotted: the noise "
    "floor."
)
TIME = (
    "The number beside a method's best setting is its NFE; hollow points are solvers. Compare within one machine only."
)


def page(comparison: Comparison, rows: tuple[Quoted, ...], title: str, stamp: str) -> str:
    """The page as a string; ``stamp`` tells later calls what it was made of."""
    styles = looks(s.line for sheet in comparison.sheets for _, samplers in sheet.blocks for s in samplers)
    pages = [
        {"sheet": sheet, "title": render.describe(sheet), "figures": _figures(sheet, styles, f"d{index}")}
        for index, sheet in enumerate(comparison.sheets)
    ]
    return (
        make_environment()
        .get_template("diffusion.html.j2")
        .render(
            title=title,
            stamp=stamp,
            facts=provenance(comparison.records).lines(),
            pages=pages,
            notes=comparison.notes,
            reading=render.READING,
            place=render.place,
            detail=render.detail,
            rank_rule=RANK_RULE,
            apart=render.APART,
            cost=render.costs(comparison),
            quoted=render.published_grid(rows),
            protocols=protocols(comparison.records),
            runs=[describe_run(group) for group in comparison.groups],
        )
    )


def _figures(sheet: Sheet, styles: Looks, prefix: str) -> list[Illustration]:
    found = [
        Illustration("Quality against network evaluations", Markup(against_nfe(sheet, styles, prefix + "n")), QUALITY)
    ]
    timed = against_seconds(sheet, styles, prefix + "s")
    if timed is not None:
        found.append(Illustration("Quality against sampling time", Markup(timed), TIME))
    return found
