"""The report's page: one HTML file that needs no network, made of text, tables and interactive figures."""

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import vl_convert
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from initlab.report import findings, sentences, theme
from initlab.report import reproduction as reproductions
from initlab.report.figures import with_histograms
from initlab.report.layout import Layout
from initlab.report.optional import optional

HERE = Path(__file__).parent
TEXTS: dict[str, Callable[[Layout], Any]] = {
    "found": findings.findings,
    "method": sentences.method,
    "variants": sentences.definitions,
    "rates": sentences.learning_rates,
    "rate_rows": sentences.learning_rate_rows,
    "start": sentences.at_the_start,
    "growth": lambda layout: [(layout.named(s), sentences.growth_table(layout, s)) for s in layout.settings],
    "learning": sentences.learning,
    "accuracies": lambda layout: [(layout.named(s), sentences.ranked(layout, s)) for s in layout.settings],
    "inside": sentences.inside,
}
# On the page a figure takes the width and the colours of its surroundings, and one legend stands for all of theirs.
ON_THE_PAGE: dict[str, Any] = {"background": "transparent", "legend": {**theme.CONFIG["legend"], "columns": 3}}
BY_VARIANT = {"color", "shape", "strokeDash"}


def render(
    layout: Layout,
    figures: dict[str, dict[str, Any]],
    lesson: pd.DataFrame | None,
    failed: dict[str, str],
    reproduction: pd.DataFrame | None = None,
) -> str:
    """Returns the page as HTML.

    figures: {name: Vega-Lite specification}.  lesson: the lesson's table.  reproduction: the comparison with a
    reference.
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
    environment.filters["marked"] = _marked
    environment.filters["described"] = _described
    environment.filters["json"] = _json
    template = environment.from_string((HERE / "page.html").read_text(encoding="utf-8"))
    return template.render(
        **texts,
        failed=list(failed),
        reference=layout.reference,
        titles=findings.TITLES,
        pair=list(
            dict.fromkeys(variant for setting in layout.settings for variant in with_histograms(layout, setting))
        ),
        looks=theme.looks(layout.variants, layout.reference),
        replicas=sorted({len(layout.replicas(*key, "test/accuracy")) for key in layout.run}),
        figures={name: _on_the_page(figure) for name, figure in figures.items()},
        numbers=["", *(f"_{number}" for number in range(1, len(layout.settings) + 1))],
        swept=[name for name in figures if name.startswith("swept_")],
        libraries=Markup(_libraries()),
        script=Markup((HERE / "page.js").read_text(encoding="utf-8")),
        lesson=None if lesson is None else lesson.astype(object).where(lesson.notna(), ""),
        verdicts=[] if lesson is None else sentences.lesson(lesson),
        reproduced=None if reproduction is None else reproductions.verdict(reproduction),
        levels=list(reproductions.LEVELS.values()),
        agreement=[] if reproduction is None else reproductions.summary(reproduction),
    )


@cache
def _libraries() -> str:
    """Returns Vega, Vega-Lite and Vega-Embed as one script, which defines vegaEmbed."""
    bundle = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # its stub has no default
    return str(bundle).replace("</script", r"<\/script")


def _on_the_page(figure: dict[str, Any]) -> dict[str, Any]:
    """Returns a figure that is as wide as its surroundings, without a legend of variants: the page has one."""
    figure = figure | {"config": figure["config"] | ON_THE_PAGE}
    figure = _without_legends(figure)
    return figure | {"width": "container", "autosize": {"type": "fit-x", "contains": "padding"}}


def _without_legends(part: Any) -> Any:
    if isinstance(part, list):
        return [_without_legends(item) for item in part]
    if not isinstance(part, dict):
        return part
    found = {name: value if name == "data" else _without_legends(value) for name, value in part.items()}
    for channel in BY_VARIANT & found.keys():
        if isinstance(found[channel], dict) and found[channel].get("field") == "variant":
            found[channel] = found[channel] | {"legend": None}
    return found


def _described(figure: dict[str, Any], text: str) -> dict[str, Any]:
    """Returns a figure with a description for screen readers: what it is, and the last value of each variant."""
    last: dict[str, str] = {}
    for layer in figure.get("layer", []):
        for row in layer.get("data", figure.get("data", {})).get("values", []):
            if row.get("variant") and row.get("value"):
                last[row["variant"]] = row["value"]
    values = "; ".join(f"{variant} {value}" for variant, value in last.items())
    return figure | {"description": f"{text}. {values}".strip()}


def _marked(text: str) -> Markup:
    """Returns a text with names, marked as `name`, set as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _json(value: Any) -> Markup:
    """Returns a value as JSON that can stand in a script element."""
    return Markup(json.dumps(value, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c"))
