"""The report's page: one HTML file that needs no network, made of text, tables and figures."""

import re
from base64 import b64encode
from pathlib import Path

import pandas as pd
from jinja2 import Environment, StrictUndefined

from initlab.report import sentences
from initlab.report.layout import Layout

TEMPLATE = Path(__file__).with_name("page.html")


def render(layout: Layout, figures: dict[str, str], lesson: pd.DataFrame | None) -> str:
    """Returns the page as HTML.

    figures: {name: SVG}, embedded as images, so that the browser's own menu can save them.  lesson: the lesson's table.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["factor"] = lambda value: "" if pd.isna(value) else f"{value:.2f}"
    environment.filters["quantity"] = lambda value: "" if pd.isna(value) else f"{value:.4g}"
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        lead=sentences.lead(layout),
        method=sentences.method(layout),
        start=sentences.at_the_start(layout),
        learning=sentences.learning(layout),
        inside=sentences.inside(layout),
        conclusions=sentences.conclusions(layout),
        growth={setting: sentences.growth_table(layout, setting) for setting in layout.settings},
        accuracies={setting: sentences.ranked(layout, setting) for setting in layout.settings},
        reference=layout.reference,
        figures={name: b64encode(svg.encode()).decode() for name, svg in figures.items()},
        widths={name: _width(svg) for name, svg in figures.items()},
        variants=sentences.definitions(layout),
        lesson=None if lesson is None else lesson.astype(object).where(lesson.notna(), ""),
        verdicts=[] if lesson is None else sentences.lesson(lesson),
    )


def _width(svg: str) -> int:
    """Returns a little more than the figure's own width, in CSS pixels of three quarters of a point."""
    found = re.search(r'<svg [^>]*width="([\d.]+)pt"', svg)
    return round(1.1 * float(found[1]) / 0.75) if found else 1000
