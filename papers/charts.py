"""What the figures of all papers have in common: their look, curves with bands, and how they are saved."""

from collections.abc import Sequence
from pathlib import Path

import altair as alt
import pandas as pd

from initlab import atomic_files
from initlab.report import theme

ORDERED = ["#440154", "#414487", "#2a788e", "#22a884", "#7ad151"]  # viridis, without the yellow that white hides
LOOK = theme.CONFIG | {
    "legend": theme.CONFIG["legend"] | {"columns": 1, "orient": "right", "symbolStrokeWidth": 2},
    "header": {"labelFontSize": 12, "title": None},
    "range": {"category": theme.COLORS},
}


def save(chart: alt.TopLevelMixin, path: Path) -> None:
    """Writes a chart as SVG. The same chart gives the same bytes."""
    atomic_files.write(path, f"{theme.svg(chart.to_dict() | {'config': LOOK})}\n".encode())


def curves(
    data: pd.DataFrame,
    title: str,
    *,
    colour: str,
    panel: str,
    colours: Sequence[str] = theme.COLORS,
    highest: float | None = None,
    columns: int = 3,
) -> alt.FacetChart:
    """Returns means over optimiser steps with their 95 % bands, in rows of `columns` panels.

    data: columns step, mean, low and high, and those that `colour` and `panel` name.  title: of the vertical axis, with
    its unit.  highest: end of that axis, which begins at 0; the largest mean and a tenth, if not given.
    """
    top = 1.1 * data["mean"].max() if highest is None else highest
    scale = alt.Scale(domain=[0, top], nice=False, clamp=True)
    order = list(dict.fromkeys(data[colour]))
    base = alt.Chart().encode(
        x=alt.X("step:Q", title="optimiser step", axis=alt.Axis(tickCount=4)),
        color=alt.Color(
            f"{colour}:N",
            title=None,
            scale=alt.Scale(domain=order, range=list(colours[: len(order)])),
            legend=alt.Legend(symbolType="stroke", symbolOpacity=1),
        ),
    )
    band = base.mark_area(opacity=0.2).encode(y=alt.Y("low:Q", title=title, scale=scale), y2="high:Q")
    line = base.mark_line(strokeWidth=1.8).encode(y=alt.Y("mean:Q", scale=scale))
    layers = alt.layer(band, line, data=data).properties(width=230, height=200)
    return layers.facet(alt.Facet(f"{panel}:N", sort=list(dict.fromkeys(data[panel]))), columns=columns)
