"""The common look of the figures: configuration, the marks of each variant, axes, and rows of data.

Figures are Altair charts of one panel, in which every variant is a series. Series differ in colour, dashes and shape at
once, so that they can be told apart in greyscale and with colour-blindness. The parameter `shown` names the variants
that are emphasised, all if it is empty. Nothing in a chart sets it: on the report's page, one legend sets it in all of
them.
"""

import re
from collections.abc import Iterable, Sequence
from math import isfinite
from typing import Any, Literal, NamedTuple

import altair as alt
import numpy as np
import pandas as pd
import vl_convert

INK = "currentColor"  # black in a file; on a page the colour of its text, which may be light on dark
# Okabe & Ito (2008), "Color universal design", without black, which is the reference's, and yellow.
COLORS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"]
DASHES: list[list[int]] = [[1, 0], [6, 3], [2, 2], [10, 3, 2, 3], [14, 4]]  # the next one after each round of colours
SHAPES = ["square", "triangle-up", "diamond", "cross", "triangle-down"]
SCHEME: Literal["viridis"] = "viridis"  # of maps: its lightness increases monotonically
MARKED = "#D55E00"
WIDTH, HEIGHT = 560, 300  # of a panel, in pixels, where nothing else sets the width
ERROR = 0.05  # smallest error, in per cent, that an axis of accuracies has room for
DIGITS = 5  # significant ones, of the numbers in a figure
WIDE = 320  # pixels for the names of rows, if there is room; the page has less on a telephone
FAINT = 0.08  # opacity of what is not emphasised

CONFIG: dict[str, Any] = {
    "background": "white",
    "font": "sans-serif",
    "view": {"stroke": None, "continuousWidth": WIDTH, "continuousHeight": HEIGHT},
    "axis": {
        **dict.fromkeys(("labelColor", "titleColor", "domainColor", "tickColor", "gridColor"), INK),
        "domainOpacity": 0.5,
        "gridOpacity": 0.12,
        "tickOpacity": 0.5,
        "labelFontSize": 11,
        "labelLimit": 150,
        "labelOverlap": "greedy",
        "titleFontSize": 12,
        "titleFontWeight": "normal",
    },
    "legend": {
        "columns": 4,
        "labelColor": INK,
        "labelFontSize": 11,
        "labelLimit": 130,
        "orient": "top",
        "symbolOpacity": 1,
        "titleColor": INK,
        "titleFontWeight": "normal",
    },
    "title": {"anchor": "start", "color": INK, "fontSize": 13},
    "text": {"color": INK, "fontSize": 11},
    "rule": {"color": INK},
}


class Look(NamedTuple):
    """How a variant is drawn: colour, lengths of dashes and gaps, name of a symbol."""

    color: str
    dash: list[int]
    shape: str


def looks(variants: Sequence[str], reference: str) -> dict[str, Look]:
    """Returns {variant: look}, the reference first, in black."""
    others = [variant for variant in variants if variant != reference]
    found = {reference: Look(INK, DASHES[0], "circle")} if reference in variants else {}
    for number, variant in enumerate(others):
        turn, color = divmod(number, len(COLORS))
        found[variant] = Look(COLORS[color], DASHES[turn % len(DASHES)], SHAPES[number % len(SHAPES)])
    return found


def series(variants: Sequence[str], reference: str, *, lines: bool = True) -> dict[str, Any]:
    """Returns the encoding channels that set variants apart: color, shape, and with lines strokeDash."""
    found = looks(variants, reference)
    field, domain = "variant:N", [*found]
    legend = alt.Legend(title=None) if len(found) > 1 else None

    def of(values: Iterable[Any]) -> alt.Scale:
        return alt.Scale(domain=domain, range=list(values))

    channels: dict[str, Any] = {
        "color": alt.Color(field, scale=of([look.color for look in found.values()]), legend=legend),
        "shape": alt.Shape(field, scale=of([look.shape for look in found.values()]), legend=legend),
    }
    if lines:
        channels["strokeDash"] = alt.StrokeDash(field, scale=of([look.dash for look in found.values()]), legend=legend)
    return channels


def without_shape(channels: dict[str, Any]) -> dict[str, Any]:
    """Returns the channels of marks that have no shape, such as lines."""
    return {name: channel for name, channel in channels.items() if name != "shape"}


def emphasis(most: float = 1.0) -> Any:
    """Returns the condition for an opacity: `most`, and almost none for variants that are not shown."""
    shown = "shown.length == 0 || indexof(shown, datum.variant) >= 0"
    return alt.when(shown).then(alt.value(most)).otherwise(alt.value(most * FAINT))


def shown() -> alt.Parameter:
    """Returns the parameter that names the emphasised variants."""
    return alt.param(name="shown", value=[])


def zoom(*axes: Literal["x", "y"]) -> alt.Parameter:
    """Returns a selection that zooms (Ctrl and the wheel, or a pinch) and moves (a mouse) the axes, both by default.

    The wheel alone, and a finger, scroll the page.
    """
    return alt.selection_interval(
        name="zoom",
        bind="scales",
        encodings=list(axes or ("x", "y")),
        zoom="wheel![event.ctrlKey]",
        translate="[mousedown, window:mouseup] > window:mousemove!",
        on="[mousedown, window:mouseup] > window:mousemove!",
    )


def hover() -> alt.Parameter:
    """Returns a selection of the variant under the pointer."""
    return alt.selection_point(name="hover", on="mousemove", clear="mouseout", fields=["variant"], empty=False)


def accuracy_axis(title: str) -> dict[str, Any]:
    """Returns scale and axis of a field of errors, in per cent: labelled as accuracies, stretched towards 100 %."""
    return {
        "scale": scale(log=True, reverse=True, padding=8),
        "axis": alt.Axis(labelExpr="format(100 - datum.value, '.4~f')", tickCount=6),
        "title": title,
    }


def error(accuracy: Any) -> Any:
    """Returns the error in per cent of an accuracy between 0 and 1, for `accuracy_axis`."""
    return np.maximum(100 - 100 * np.asarray(accuracy, dtype=float), ERROR)


def log_axis(title: str, domain: Sequence[float] | None = None) -> dict[str, Any]:
    """Returns scale and axis of a logarithmic field."""
    ends = {"domain": list(domain)} if domain is not None else {}
    return {"scale": scale(log=True, padding=8, **ends), "axis": alt.Axis(format="~g", tickCount=6), "title": title}


def scale(*, log: bool, **options: Any) -> alt.Scale:
    """Returns a scale that reaches from the smallest value to the largest."""
    return alt.Scale(type="log", nice=False, **options) if log else alt.Scale(nice=False, zero=False, **options)


def rows(table: pd.DataFrame) -> alt.Data:
    """Returns the rows of a table as a figure's data. NaN and infinity are left empty, and numbers are rounded."""
    return alt.Data(values=[_row(row) for row in table.to_dict("records")])


def packed(values: Iterable[float]) -> str:
    """Returns numbers as one text, which is smaller than a list, and is read by `unpacked`."""
    return " ".join(f"{value:.4g}" for value in values)


def unpacked(field: str) -> str:
    """Returns the Vega expression for the numbers of a `packed` field."""
    return f"split(datum.{field}, ' ')"


def _row(row: dict[Any, Any]) -> dict[str, Any]:
    return {str(name): _plain(value) for name, value in row.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(f"{value:.{DIGITS}g}") if isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def styled(chart: Any) -> Any:
    """Returns a chart with the common configuration."""
    return chart.configure(**CONFIG)


def svg(specification: dict[str, Any]) -> str:
    """Draws a Vega-Lite specification. The same specification gives the same text."""
    text = str(vl_convert.vegalite_to_svg(specification))
    found: dict[str, str] = {}  # Vega numbers ids on from one drawing to the next
    return re.sub(r"\b(clip|gradient_)\d+", lambda m: found.setdefault(m[0], f"{m[1]}{len(found)}"), text)
