"""The report's page: one HTML file that needs no network, made of text, tables and figures."""

import re
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined

from initlab.report import reproduction as reproductions
from initlab.report import sentences
from initlab.report.layout import Layout
from initlab.report.optional import optional

TEMPLATE = Path(__file__).with_name("page.html")
TEXTS: dict[str, Callable[[Layout], Any]] = {
    "result": sentences.lead,
    "method": sentences.method,
    "variants": sentences.definitions,
    "rates": sentences.learning_rates,
    "rate_rows": sentences.learning_rate_rows,
    "start": sentences.at_the_start,
    "growth": lambda layout: [(setting, sentences.growth_table(layout, setting)) for setting in layout.settings],
    "learning": sentences.learning,
    "accuracies": lambda layout: [(setting, sentences.ranked(layout, setting)) for setting in layout.settings],
    "inside": sentences.inside,
    "conclusions": sentences.conclusions,
}


def render(
    layout: Layout,
    figures: dict[str, str],
    lesson: pd.DataFrame | None,
    failed: dict[str, str],
    reproduction: pd.DataFrame | None = None,
) -> str:
    """Returns the page as HTML.

    figures: {name: SVG}, embedded as images, so that the browser's own menu can save them.  lesson: the lesson's table.
    reproduction: the comparison with a reference.
    failed: {line: stack trace} of what can't be made. The page has these lines; texts that can't be made are added.
    """
    texts: dict[str, Any] = {}
    for name, write in TEXTS.items():
        texts[name] = []
        with optional(f"the text on {name}", failed):
            texts[name] = write(layout)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["factor"] = lambda value: "" if pd.isna(value) else f"{value:.2f}"
    environment.filters["quantity"] = lambda value: "" if pd.isna(value) else f"{value:.4g}"
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        **texts,
        failed=list(failed),
        reference=layout.reference,
        figures={name: b64encode(svg.encode()).decode() for name, svg in figures.items()},
        widths={name: _width(svg) for name, svg in figures.items()},
        lesson=None if lesson is None else lesson.astype(object).where(lesson.notna(), ""),
        verdicts=[] if lesson is None else sentences.lesson(lesson),
        reproduced=None if reproduction is None else reproductions.verdict(reproduction),
        levels=list(reproductions.LEVELS.values()),
        agreement=[] if reproduction is None else reproductions.summary(reproduction),
    )


def _width(svg: str) -> int:
    """Returns a little more than the figure's own width, in CSS pixels of three quarters of a point."""
    found = re.search(r'<svg [^>]*width="([\d.]+)pt"', svg)
    return round(1.1 * float(found[1]) / 0.75) if found else 1000
