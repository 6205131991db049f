"""The common look of all figures: style, series, panels, legends. matplotlib's global state is not used.

Each variant has a panel, always in the same place. Each setting is a series. Series differ in colour, marker and line
style at once, so that they can be told apart in greyscale and with colour-blindness.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import BytesIO, StringIO
from math import ceil, inf, isfinite, sqrt
from textwrap import fill
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import FuncNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from initlab.report.layout import Layout

STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so it is the same everywhere
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.edgecolor": "#555555",
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "legend.frameon": False,
    "svg.hashsalt": "initlab",  # so that ids do not change from one drawing to the next
}
# Okabe & Ito (2008), "Color universal design", in an order in which they differ in lightness too.
SERIES: list[dict[str, Any]] = [
    {"color": "#0072B2", "marker": "o", "linestyle": "-"},
    {"color": "#E69F00", "marker": "s", "linestyle": "--"},
    {"color": "#000000", "marker": "^", "linestyle": ":"},
    {"color": "#CC79A7", "marker": "D", "linestyle": "-."},
]
GREY, DARK = "#9a9a9a", "#333333"
SHADES = matplotlib.colormaps["viridis"]  # its lightness increases monotonically
WIDTH = 9.4  # inches, of all figures with several panels
COLUMNS = 4


def svg(figure: Figure) -> str:
    """Returns the figure as SVG. The same figure gives the same text."""
    text = StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()


def png(figure: Figure) -> bytes:
    """Returns the figure as PNG, with 150 dots per inch."""
    data = BytesIO()
    figure.savefig(data, format="png", dpi=150, metadata={"Software": None})
    return data.getvalue()


def panels(layout: Layout, x: str, y: str) -> tuple[Figure, dict[str, Axes]]:
    """Returns a figure with one panel per variant, on common axes. x, y: labels of the axes."""
    columns = min(COLUMNS, len(layout.variants))
    rows = ceil(len(layout.variants) / columns)
    figure = Figure(figsize=(WIDTH * max(columns, 2) / COLUMNS, 1.75 * rows + 0.75), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    found = dict(zip(layout.variants, grid.flat, strict=False))
    for axes in grid.flat[len(found) :]:
        axes.axis("off")
    if rows > 1:  # a panel without one below it shows its own axis
        for axes in grid[rows - 2, len(found) - columns * (rows - 1) :]:
            axes.tick_params(labelbottom=True)
    for variant, axes in found.items():
        axes.set_title(wrapped(variant))
    figure.supxlabel(x, fontsize=8)
    figure.supylabel(y, fontsize=8)
    return figure, found


def series(layout: Layout, found: dict[str, Axes]) -> Iterator[tuple[str, Axes, int, str]]:
    """Yields (variant, panel, number of the setting, setting) for every run."""
    for variant, axes in found.items():
        for number, setting in enumerate(layout.settings):
            if (variant, setting) in layout.run:
                yield variant, axes, number, setting


def note(axes: Axes, number: int, setting: str, text: str, *, top: bool = False) -> None:
    """Writes a few words on one setting into a panel's lower (or upper) right corner, one line per setting."""
    axes.text(
        0.98,
        0.88 - 0.11 * number if top else 0.04 + 0.11 * number,
        f"{shortened(setting)}: {text}" if setting else text,
        transform=axes.transAxes,
        ha="right",
        fontsize=7,
        color=DARK,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.5},
    )


def legend(figure: Figure, handles: Mapping[str, Artist]) -> None:
    """Draws a legend above the panels. handles: {label: what it looks like}."""
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=min(len(handles), 4))


def label_ends(axes: Axes, ends: Mapping[str, tuple[float, float]]) -> None:
    """Names lines at their ends, on a logarithmic axis, spread out so that names do not overlap."""
    low, high = np.log10(axes.get_ylim())
    gap = 0.045 * (high - low)
    names = sorted(ends, key=lambda name: ends[name][1])
    y = np.log10([ends[name][1] for name in names])
    steps = gap * np.arange(len(y))
    pushed_up = np.maximum.accumulate(y - steps) + steps
    pushed_down = np.minimum.accumulate((y - steps)[::-1])[::-1] + steps
    for name, at in zip(names, (pushed_up + pushed_down) / 2, strict=True):
        place = (axes.get_xlim()[1] + 0.3, 10**at)
        leader = {"arrowstyle": "-", "color": "#cccccc", "linewidth": 0.6, "shrinkB": 3}
        axes.annotate(name, ends[name], xytext=place, va="center", annotation_clip=False, arrowprops=leader)


def shortened(name: str, most: int = 80) -> str:
    """Leaves out the middle of a name of more than `most` characters."""
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-most // 2 :]}"


def wrapped(name: str) -> str:
    """Breaks a long name into several lines."""
    return fill(shortened(name), 28)


def titled(variant: str, setting: str) -> str:
    """Returns the title of a variant in a setting."""
    return f"{shortened(variant)}, {shortened(setting)}" if setting else shortened(variant)


def power_of_ten(value: float) -> str:
    """Formats a value as mathtext: 1234 -> 1 x 10^3."""
    if value == 0 or not isfinite(value):
        return {0: "0", inf: r"$\infty$"}.get(value, "NaN")
    mantissa, exponent = f"{value:.0e}".split("e")
    return rf"${mantissa} \times 10^{{{int(exponent)}}}$"


def beyond(value: float) -> str:
    """Says where a line goes that leaves its axis."""
    return f"to {power_of_ten(value)}" if isfinite(value) else "overflows"


def log_scale(panels: Iterable[Axes]) -> None:
    """Makes the panels' common y axis logarithmic, if any value on it is positive."""
    panels = list(panels)
    if any(np.isfinite(axes.dataLim.minposy) for axes in panels):
        panels[0].set_yscale("log")
        panels[0].yaxis.set_major_locator(LogLocator(numticks=6))
        panels[0].yaxis.set_minor_formatter(NullFormatter())
        low, high = panels[0].get_ylim()
        if high < 10 * low:  # at least a decade, or no tick would have a label
            middle = sqrt(low * high)
            panels[0].set_ylim(middle / sqrt(10), middle * sqrt(10))


def whole_ticks(axes: Axes, last: int) -> None:
    """Makes the x axis one of layers 1 to `last`."""
    axes.set_xlim(0.5, max(last, 1) + 0.7)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def stretch_near_100(axes: Axes, axis: Literal["x", "y"], values: Sequence[float]) -> None:
    """Makes an axis of percentages logit, as wide as the values need: 97 and 98 are as far apart as 2 and 3."""
    low, high = min([10.0, *values]), max([95.0, *values])
    limits = _expit(_logit(np.array([low, high])) + np.array([-0.6, 0.6]))
    ticks = [tick for tick in (1, 10, 50, 80, 90, 95, 98, 99.5) if limits[0] < tick < limits[1]]
    if axis == "x":
        axes.set_xscale("function", functions=(_logit, _expit))
        axes.set_xticks(ticks)
        axes.set_xlim(*limits)
    else:
        axes.set_yscale("function", functions=(_logit, _expit))
        axes.set_yticks(ticks)
        axes.set_ylim(*limits)


def norm_near_100(values: Sequence[float]) -> FuncNorm:
    """Returns a scale of colours for percentages that is stretched as `stretch_near_100` does."""
    return FuncNorm((_logit, _expit), vmin=np.nanmin(values), vmax=np.nanmax(values))


def _logit(percent: np.ndarray) -> np.ndarray:
    share = np.clip(np.asarray(percent, dtype=float) / 100, 1e-3, 1 - 1e-3)
    return np.log(share / (1 - share))


def _expit(logit: np.ndarray) -> np.ndarray:
    return 100 / (1 + np.exp(-np.asarray(logit, dtype=float)))
