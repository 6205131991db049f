"""The building blocks of the figures: lines with bands, maps, panels and sliders, and how numbers are written."""

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from initlab.report import swept, theme

MOST_NUMBERS = 16  # columns of a map that has its numbers written into it


def lines(
    table: pd.DataFrame,
    variants: list[str],
    reference: str,
    title: str,
    *,
    x: str,
    x_title: str,
    y: dict[str, Any],
    tooltip: str,
    dots: bool = False,
    log_x: bool = False,
    interactive: bool = True,
) -> Any:
    """Draws lines with bands, one per variant. table: columns variant, `x`, y, low, high, value; perhaps theory."""
    data, marks = theme.rows(table), theme.series(variants, reference)
    x_scale = theme.scale(log=log_x, padding=8)
    x_axis = alt.Axis(format="~g" if log_x else ",.4~g", tickMinStep=1 if x in ("layer", "step") else alt.Undefined)
    at = alt.X(f"{x}:Q", title=x_title, scale=x_scale, axis=x_axis)
    hover, width = theme.hover(), alt.value(1.6)
    thicker = alt.when(hover).then(alt.value(3.5)).otherwise(width)
    tips = [alt.Tooltip("variant:N"), alt.Tooltip(f"{x}:Q", title=x_title), alt.Tooltip("value:N", title=tooltip)]
    if "theory" in table:
        tips.append(alt.Tooltip("theory:Q", format=".4g"))
    shape = {"shape": marks["shape"]} if dots else {}
    layers = [
        alt.Chart(data, name="bands")
        .mark_area(clip=True)
        .encode(x=at, y=alt.Y("low:Q", **y), y2="high:Q", color=marks["color"], opacity=theme.emphasis(0.13))
        .add_params(theme.shown(), *[theme.zoom()] * interactive),
        alt.Chart(data)
        .mark_line(clip=True)
        .encode(
            x=at,
            y=alt.Y("y:Q", **y),
            **theme.without_shape(marks),
            opacity=theme.emphasis(),
            size=thicker if interactive else width,
        ),
        alt.Chart(data, name="points")
        .mark_point(filled=True, size=40 if dots else 150, clip=True)
        .encode(
            x=at,
            y=alt.Y("y:Q", **y),
            color=marks["color"],
            **shape,
            opacity=theme.emphasis() if dots else alt.value(0),
            tooltip=tips,
        )
        .add_params(*[hover] * interactive),
    ]
    return panel(layers, title)


def heat_map(view: swept.Map, title: str, label: str) -> Any:
    """Draws a map of accuracies with their numbers in it. view.table: x, y, accuracy, diverged, replicas, best."""
    table = view.table.assign(error=theme.error(view.table["accuracy"]))
    lost = [f"{row.diverged} of {row.replicas} diverged" if row.diverged else "" for row in table.itertuples()]
    table = table.assign(text=[f"{100 * accuracy:.1f}" for accuracy in table["accuracy"]], lost=lost)
    low, high = table["error"].min(), table["error"].max()
    scale = alt.Scale(
        scheme=theme.SCHEME, type="log", domain=[high, max(low, theme.ERROR) if low < high else low * 0.99]
    )
    bright = float(high * (low / high) ** 0.6)  # errors below this are drawn in a light colour
    x = alt.X("x:N", sort=view.columns, title=view.x, axis=alt.Axis(labelAngle=0))
    y = alt.Y("y:N", sort=view.rows, title=view.y or None, axis=alt.Axis(labelLimit=130))
    legend = alt.Legend(title=label, labelExpr="format(100 - datum.value, '.4~f')", gradientLength=160)
    tips = [alt.Tooltip("y:N", title=view.y or "variant"), alt.Tooltip("x:N", title=view.x)]
    tips += [alt.Tooltip("text:N", title=label), alt.Tooltip("lost:N", title="diverged")]
    base = alt.Chart(theme.rows(table)).encode(x=x, y=y)
    ink = alt.when(f"datum.error < {bright:.5g}").then(alt.value("black")).otherwise(alt.value("white"))
    layers = [base.mark_rect().encode(color=alt.Color("error:Q", scale=scale, legend=legend), tooltip=tips)]
    if len(view.columns) <= MOST_NUMBERS:
        layers.append(base.mark_text(fontSize=10).encode(text="text:N", color=ink))
        layers.append(base.mark_text(fontSize=8, dy=10).encode(text="lost:N", color=ink))
    best = alt.Chart(theme.rows(table[table["best"]])).mark_rect(
        filled=False, stroke=theme.MARKED, strokeWidth=2.5, fill="transparent"
    )
    layers.append(best.encode(x=x, y=y))
    return panel(layers, title, 30 * len(view.rows))


def panel(layers: list[Any], title: str, height: int = theme.HEIGHT) -> Any:
    """Returns layers as one chart, under a title if it is not empty. height: in pixels."""
    chart = alt.layer(*layers).properties(width=theme.WIDTH, height=height)
    return chart.properties(title=title) if title else chart


def slider(name: str, low: int, high: int, value: int, label: str) -> alt.Parameter:
    """Returns a parameter with a slider, if there is anything to choose."""
    if low == high:
        return alt.param(name=name, value=value)
    return alt.param(name=name, value=value, bind=alt.binding_range(min=low, max=high, step=1, name=f"{label} "))


def spread(values: pd.Series) -> alt.Scale:
    """Returns a logarithmic scale if the median is nearer to the middle of that than of a linear one."""
    low, middle, high = values.min(), values.median(), values.max()
    log = 0 < 3 * low < high and abs(np.log(middle / np.sqrt(low * high))) < abs(np.log(2 * middle / (low + high)))
    return theme.scale(log=log, padding=12)


def accuracy_interval(mean: float, ci95: float | None) -> dict[str, float]:
    low, high = accuracy_ends(mean, ci95)
    return {} if low is None or high is None else {"low": low, "high": high}


def accuracy_ends(mean: float, ci95: float | None) -> tuple[float | None, float | None]:
    """Returns the ends of an accuracy's interval, as errors in per cent that an axis has room for."""
    if ci95 is None or np.isnan(ci95):
        return None, None
    middle = float(theme.error(mean))
    return max(float(theme.error(mean + ci95)), middle / 4), float(theme.error(mean - ci95))


def percent(mean: float, ci95: float | None) -> str:
    return f"{100 * mean:.2f}" + ("" if ci95 is None or np.isnan(ci95) else f" ± {100 * ci95:.2f}") + " %"


def number(mean: float, ci95: float | None) -> str:
    return f"{mean:.4g}" + ("" if ci95 is None else f" ± {ci95:.2g}")


def short(name: str, most: int = 40) -> str:
    """Leaves out the middle of a long name."""
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-most // 2 :]}"
