"""The figures of a report. Each is a function of the sweep's `Layout`."""

from collections.abc import Callable
from functools import partial
from math import ceil, log, sqrt
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullFormatter

from initlab.confidence_intervals import mean_ci95
from initlab.nn.layer_stats import BINS, HIGH, LOW
from initlab.report import plotting
from initlab.report.layout import MOST_SETTINGS, Layout
from initlab.report.learning_rates import LearningRates
from initlab.report.plotting import DARK, GREY, SERIES, SHADES, WIDTH
from initlab.report.search import Search

MOST_NUMBERS = 16  # learning rates at which a map has its numbers written into it
SEEN = 1e-3, 1e2  # range of the standard deviations of activations that the overview shows


def figures(layout: Layout, lesson: pd.DataFrame | None) -> dict[str, Callable[[], Figure]]:
    """Returns {name of its file: function that draws it} of every figure that there is data for."""
    found: dict[str, Callable[[], Figure]] = {}
    if layout.search is not None and len(layout.search.keys) <= 2:
        found["search"] = partial(search, layout.search)
    found["overview"] = partial(overview, layout)
    if layout.rates is not None:
        best = layout.at(layout.rates.at_best())
        found["learning_rate"] = partial(learning_rate, best, layout.rates)
        if len(best.variants) > MOST_SETTINGS:
            found["learning_rate_map"] = partial(learning_rate_map, best, layout.rates)
    if layout.deepest():
        label = "standard deviation of "
        found |= {
            "activation_std": partial(by_depth, layout, "act_std", f"{label}activations", (0.03, 30), log=True),
            "activation_mean": partial(by_depth, layout, "act_mean", "mean of activations", (-1, 3.2), log=False),
            "gradients": partial(by_depth, layout, "delta_std", f"{label}dL/dz", (5e-5, 2), log=True),
            "saturated": partial(saturated, layout),
        }
    found |= {
        "final_accuracy": partial(final_accuracy, layout),
        "accuracy_curves": partial(curves, layout, "val/accuracy", "validation accuracy, %"),
        "loss_curves": partial(curves, layout, "train/loss", "training loss"),
    }
    for number, setting in enumerate(layout.settings, start=1):
        if layout.deepest(setting):
            found[f"histograms_{number}"] = partial(histograms, layout, setting)
    if layout.side is not None:
        found["weights"] = partial(weights, layout, layout.side)
    if lesson is not None:
        found["lesson"] = partial(lesson_intervals, lesson)
    return found


def search(found: Search) -> Figure:
    """Validation accuracy of every run against the number that was searched; with two numbers, it is the colour."""
    figure = Figure(figsize=(0.6 * WIDTH, 3.6), layout="constrained")
    axes = figure.subplots()
    runs, x = found.runs.sort_values("mean"), found.keys[0]
    percent = 100 * runs["mean"]
    y = percent if len(found.keys) == 1 else runs[found.keys[1]]
    if len(found.keys) == 1:
        axes.errorbar(runs[x], y, 100 * runs["ci95"], fmt="o", color=SERIES[0]["color"], elinewidth=1)
        axes.set_ylabel("validation accuracy, %")
        plotting.stretch_near_100(axes, "y", list(percent))
    else:
        worst = percent.quantile(0.25)  # anything worse gets the darkest colour, so that most colours are for good runs
        dots = axes.scatter(runs[x], y, c=percent, cmap=SHADES, vmin=worst, s=36, edgecolors=DARK, linewidths=0.4)
        figure.colorbar(dots, label="validation accuracy, %", extend="min")
        axes.set_ylabel(found.keys[1])
        _decades(axes, "y", runs[found.keys[1]])
    axes.set_xlabel(x)
    _decades(axes, "x", runs[x])
    handles = {}
    for name, run, marker in [("first", found.first, "s"), ("best", found.best, "*")]:
        ring: dict[str, Any] = {"marker": marker, "markersize": 13, "fillstyle": "none", "linestyle": ""}
        at = 100 * run["mean"] if len(found.keys) == 1 else run[found.keys[1]]
        (handles[f"{name}: {found.label(run['run'])}"],) = axes.plot(run[x], at, color="#D55E00", **ring)
    plotting.legend(figure, handles)
    return figure


def _decades(axes: Axes, axis: Literal["x", "y"], values: pd.Series) -> None:
    """Makes an axis logarithmic if the median run is nearer to the middle of that than of a linear axis."""
    low, middle, high = values.min(), values.median(), values.max()
    if 0 < 3 * low < high and abs(log(middle / sqrt(low * high))) < abs(log(2 * middle / (low + high))):
        (axes.set_xscale if axis == "x" else axes.set_yscale)("log")
        scale = axes.xaxis if axis == "x" else axes.yaxis
        scale.set_major_formatter("{x:g}")
        scale.set_minor_formatter(NullFormatter() if 10 * low < high else "{x:g}")


def learning_rate(layout: Layout, rates: LearningRates) -> Figure:
    """Validation accuracy by learning rate with its 95 % band, the best rate marked, the reference behind it in grey.

    layout: of the runs at the best rates.
    """
    figure, panels = plotting.panels(layout, "learning rate", "validation accuracy, %")
    for variant, axes, number, setting in plotting.series(layout, panels):
        color, line = SERIES[number]["color"], SERIES[number]["linestyle"]
        if (behind := rates.curves.get((layout.reference, setting))) is not None:
            axes.plot(behind["rate"], 100 * behind["mean"], color=GREY, linestyle=line, linewidth=0.8)
        curve, best = rates.curves[variant, setting], rates.best(variant, setting)
        mean, ci95 = 100 * curve["mean"], 100 * curve["ci95"].fillna(0)
        axes.plot(curve["rate"], mean, color=color, linestyle=line, marker=".")
        axes.fill_between(curve["rate"], mean - ci95, mean + ci95, color=color, alpha=0.25, linewidth=0)
        if not rates.hopeless(variant, setting):
            axes.plot(best["rate"], 100 * best["mean"], marker="*", markersize=10, color=color, markeredgecolor="white")
        if lost := rates.diverging(variant, setting):
            plotting.note(axes, number, setting, f"{lost[0]} of {lost[1]} diverged, from {lost[2]:g} on")
    everywhere = [value for curve in rates.curves.values() for value in 100 * curve["mean"]]
    for axes in panels.values():
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        plotting.stretch_near_100(axes, "y", everywhere)
    handles = _settings(layout)
    if len(layout.variants) > 1:
        handles[f"{plotting.shortened(layout.reference)}, in every panel"] = Line2D([], [], color=GREY, linewidth=0.8)
    plotting.legend(figure, handles)
    return figure


def learning_rate_map(layout: Layout, rates: LearningRates) -> Figure:
    """Validation accuracy in per cent by variant and learning rate, one map per setting. layout: as `learning_rate`."""
    columns = {rate: x for x, rate in enumerate(rates.rates)}
    height = 0.9 + (0.27 * len(layout.variants) + 0.3) * len(layout.settings)
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    grid = figure.subplots(len(layout.settings), 1, squeeze=False)[:, 0]
    norm = plotting.norm_near_100([value for curve in rates.curves.values() for value in 100 * curve["mean"]])
    for axes, setting in zip(grid, layout.settings, strict=True):
        ranked = layout.ranking(setting)
        percent = np.full((len(ranked), len(columns)), np.nan)
        for y, variant in enumerate(ranked):
            best = None if rates.hopeless(variant, setting) else rates.best(variant, setting)["run"]
            for row in rates.curves[variant, setting].itertuples():
                x = columns[row.rate]
                percent[y, x] = 100 * row.mean
                lost = f"\n{row.diverged} of {row.replicas}" if row.diverged else ""
                color = "white" if norm(percent[y, x]) < 0.6 else "black"
                if len(columns) <= MOST_NUMBERS:
                    place = {"ha": "center", "va": "center", "linespacing": 0.9}
                    axes.text(x, y, f"{percent[y, x]:.1f}{lost}", color=color, fontsize=6, **place)
                if row.run == best:
                    axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor="#D55E00", linewidth=1.8))
        image = axes.imshow(percent, cmap=SHADES, norm=norm, aspect="auto")
        axes.grid(visible=False)
        axes.set_yticks(range(len(ranked)), [plotting.shortened(variant, 40) for variant in ranked])
        every = ceil(len(columns) / MOST_NUMBERS)
        axes.set_xticks(range(0, len(columns), every), [f"{rate:g}" for rate in rates.rates[::every]])
        axes.set_title(plotting.titled("validation accuracy, %", setting))
        axes.set_xlabel("learning rate")
    figure.colorbar(image, ax=list(grid), pad=0.01)
    return figure


def overview(layout: Layout) -> Figure:
    """The deepest setting at a glance: scale of activations per layer, and accuracy by size of the first gradient."""
    setting = max(layout.settings, key=layout.deepest)
    size = {v: layout.first_gradient(v, s) for v, s in layout.run if s == setting}
    figure = Figure(figsize=(WIDTH, 1.3 + 0.24 * len(size)), layout="constrained")
    left, right = figure.subplots(1, 2)
    ends, everywhere = {}, []
    ordered = sorted(size, key=lambda v: size[v])
    for y, variant in enumerate(ordered):
        found = layout.layers(variant, setting, "act_std")
        drawn = found[found["mean"].between(*SEEN)]
        dark = {"color": "black", "zorder": 3} if variant == layout.reference else {"color": GREY}
        left.plot(found["layer"], found["mean"], marker=".", **dark)
        if len(drawn):
            gone = len(drawn) < len(found)
            name = plotting.shortened(variant, 40) + (f", {plotting.beyond(found['mean'].iloc[-1])}" if gone else "")
            ends[name] = (drawn["layer"].iloc[-1], drawn["mean"].iloc[-1])
        accuracies = 100 * layout.replicas(variant, setting, "test/accuracy")
        alive = 100 * layout.survivors(variant, setting, "test/accuracy")
        right.plot(accuracies, y + np.linspace(-0.2, 0.2, len(accuracies)), "o", color=GREY, markersize=3)
        right.plot(alive.mean() if len(alive) else np.nan, y, "o", color=SERIES[0]["color"], markersize=6)
        everywhere += [*accuracies]
    plotting.log_scale([left])
    low, high = left.get_ylim()
    left.set_ylim(max(low, SEEN[0]), min(high, 2 * SEEN[1]))
    if ends:
        plotting.label_ends(left, ends)
    plotting.stretch_near_100(right, "x", everywhere)
    plotting.whole_ticks(left, layout.deepest(setting))
    right.set_yticks(range(len(size)), [f"{plotting.wrapped(v)}  {plotting.power_of_ten(size[v])}" for v in ordered])
    left.set_title(plotting.titled("std of activations, by hidden layer", setting))
    right.set_title("test accuracy, %, by std of the first dL/dW")
    return figure


def by_depth(layout: Layout, name: str, label: str, limits: tuple[float, float], *, log: bool) -> Figure:
    """A statistic of each hidden layer at step 0: dots with 95 % intervals over replicas, and theory as a line.

    limits: the largest range of the axis. Values beyond it are written instead of drawn.
    """
    figure, panels = plotting.panels(layout, "hidden layer", label)
    low, high = limits
    for variant, axes, number, setting in plotting.series(layout, panels):
        style = SERIES[number]
        found = layout.gradients(variant, setting) if name == "delta_std" else layout.layers(variant, setting, name)
        x = found["layer"] + 0.18 * number
        line = {"linestyle": style["linestyle"]} if len(found) > 1 else {"marker": "_", "markersize": 9}
        axes.plot(x, found["theory"], color=style["color"], **line)
        drawn = found["mean"].between(low, high)
        intervals = found["ci95"][drawn].fillna(0)
        dots = {"fmt": style["marker"], "color": style["color"], "markeredgecolor": "white", "markeredgewidth": 0.5}
        axes.errorbar(x[drawn], found["mean"][drawn], intervals, elinewidth=1, markersize=3.5, **dots)
        if not drawn.all():
            beyond = found["mean"][~drawn].iloc[-1 if name != "delta_std" else 0]
            plotting.note(axes, number, setting, plotting.beyond(beyond))
    if log:
        plotting.log_scale(panels.values())
    for axes in panels.values():
        plotting.whole_ticks(axes, layout.deepest())
        bottom, top = axes.get_ylim()
        axes.set_ylim(max(low, bottom), min(high, top))
    handles = {}
    for style, setting in zip(SERIES, layout.settings, strict=False):
        prefix = f"{plotting.shortened(setting)}: " if setting else ""
        handles[f"{prefix}theory, wide layers"] = Line2D([], [], color=style["color"], linestyle=style["linestyle"])
        handles[f"{prefix}measured, 95 %"] = Line2D([], [], color=style["color"], linestyle="", marker=style["marker"])
    plotting.legend(figure, handles)
    return figure


def curves(layout: Layout, name: str, label: str) -> Figure:
    """A metric over training with its 95 % band, and the reference behind it in grey."""
    figure, panels = plotting.panels(layout, "thousand steps", label)
    scale = 100 if name == "val/accuracy" else 1
    for variant, axes, number, setting in plotting.series(layout, panels):
        color, line = SERIES[number]["color"], SERIES[number]["linestyle"]
        if (layout.reference, setting) in layout.run:
            behind = layout.steps(layout.reference, setting, name)
            axes.plot(behind["step"] / 1000, scale * behind["mean"], color=GREY, linestyle=line, linewidth=0.8)
        found = layout.steps(variant, setting, name)
        x, mean, ci95 = found["step"] / 1000, scale * found["mean"], scale * found["ci95"].fillna(0)
        axes.plot(x, mean, color=color, linestyle=line)
        axes.fill_between(x, mean - ci95, mean + ci95, color=color, alpha=0.25, linewidth=0)
        if diverged := layout.diverged(variant, setting):
            replicas = len(layout.replicas(variant, setting, name))
            plotting.note(axes, number, setting, f"{diverged} of {replicas} diverged", top=scale == 1)
    if scale == 100:
        everywhere = [v for key in layout.run for v in 100 * layout.steps(*key, name)["mean"]]
        for axes in panels.values():
            plotting.stretch_near_100(axes, "y", everywhere)
    else:
        plotting.log_scale(panels.values())
    handles = _settings(layout)
    if len(layout.variants) > 1:
        handles[f"{plotting.shortened(layout.reference)}, in every panel"] = Line2D([], [], color=GREY, linewidth=0.8)
    plotting.legend(figure, handles)
    return figure


def final_accuracy(layout: Layout) -> Figure:
    """Test accuracy: every replica, mean and interval. Beside it, the paired difference from the reference."""
    height = 0.6 + 0.26 * len(layout.variants)
    figure = Figure(figsize=(WIDTH, 0.4 + height * len(layout.settings)), layout="constrained")
    rows = figure.subplots(len(layout.settings), 2, squeeze=False)
    for (left, right), style, setting in zip(rows, SERIES, layout.settings, strict=False):
        ranked = layout.ranking(setting)[::-1]
        best = layout.replicas(ranked[-1], setting, "test/accuracy").mean()
        dots = {"fmt": style["marker"], "color": style["color"], "capsize": 3}
        for y, variant in enumerate(ranked):
            values = 100 * layout.survivors(variant, setting, "test/accuracy")
            if lost := layout.diverged(variant, setting):
                text = f"{lost} of {lost + len(values)} diverged"
                right.text(0.01, y, text, transform=right.get_yaxis_transform(), va="center", fontsize=7)
            if not len(values):
                continue
            mean, ci95 = mean_ci95(values)
            if mean < 100 * best - 8:  # points this far off would squeeze the rest together
                text = f"\N{BLACK LEFT-POINTING TRIANGLE} {mean:.1f}" + (f" ± {ci95:.1f}" if ci95 is not None else "")
                left.text(0.01, y, text, transform=left.get_yaxis_transform(), va="center")
                difference = layout.difference(variant, setting, "test/accuracy")
                if difference is not None:
                    text = f"\N{BLACK LEFT-POINTING TRIANGLE} {100 * difference[0]:.1f} ± {100 * difference[1]:.1f}"
                    right.text(0.01, y, text, transform=right.get_yaxis_transform(), va="center")
                continue
            left.plot(values, y + np.linspace(-0.22, 0.22, len(values)), "o", color=GREY, markersize=2.5)
            left.errorbar(mean, y, xerr=ci95, markersize=5, **dots)
            difference = layout.difference(variant, setting, "test/accuracy")
            if difference is not None:
                right.errorbar(100 * difference[0], y, xerr=100 * difference[1], **dots)
        for axes in (left, right):
            axes.set_yticks(range(len(ranked)), [plotting.wrapped(variant) for variant in ranked])
            axes.set_ylim(-0.6, len(ranked) - 0.4)
        right.axvline(0, color="#555555", linewidth=0.8)
        left.set_title(f"{plotting.shortened(setting)}: test accuracy, %" if setting else "test accuracy, %")
        right.set_title(f"minus {plotting.shortened(layout.reference)}, paired by replica, percentage points")
    return figure


def histograms(layout: Layout, setting: str) -> Figure:
    """Activations over training, one strip per layer: the reference beside a variant with another shift."""
    pair = [*layout.pair(setting), *(variant for variant, s in layout.run if s == setting)]
    chosen = [variant for variant in dict.fromkeys(pair) if layout.hidden(variant, setting)][:2]
    layers = max(layout.hidden(variant, setting) for variant in chosen)
    figure = Figure(figsize=(WIDTH, 0.7 + 1.05 * layers), layout="constrained")
    grid = figure.subplots(layers, len(chosen), squeeze=False, sharex=True, sharey=True)
    edges = np.linspace(LOW, HIGH, BINS + 1)
    for column, variant in zip(grid.T, chosen, strict=True):
        steps = layout.tensor(variant, setting, "step").numpy() / 1000  # (T,)
        every = steps[1] - steps[0] if len(steps) > 1 else 1.0
        for layer, axes in enumerate(column[: layout.hidden(variant, setting)], start=1):
            counts = layout.tensor(variant, setting, f"layer{layer}/histogram").numpy()  # (T, bins)
            percent = 100 * counts.T / np.maximum(counts.sum(1), 1)
            colors = {"cmap": SHADES, "norm": "log", "vmin": 0.01, "vmax": 60}
            mesh = axes.pcolormesh(np.append(steps, steps[-1] + every), edges, percent, rasterized=True, **colors)
            axes.set_facecolor(SHADES(0.0))
            axes.grid(visible=False)
            axes.set_ylabel(f"layer {layer}")
        column[0].set_title(plotting.wrapped(plotting.titled(variant, setting)))
        column[-1].set_xlabel("thousand steps")
    figure.colorbar(mesh, ax=grid, label="% of activations", shrink=min(1, 3 / layers), pad=0.01)
    return figure


def saturated(layout: Layout) -> Figure:
    """Share of saturated pre-activations over training, one line per layer. The first layer is the darkest."""
    figure, panels = plotting.panels(layout, "thousand steps", "saturated, %")
    for variant, axes, number, setting in plotting.series(layout, panels):
        layers = layout.hidden(variant, setting)
        for layer in range(1, layers + 1):
            found = layout.steps(variant, setting, f"layer{layer}/saturated_fraction")
            color = SHADES(0.9 * (layer - 1) / (layers - 1)) if layers > 1 else DARK
            line = SERIES[number]["linestyle"]
            axes.plot(found["step"] / 1000, 100 * found["mean"], color=color, linestyle=line, linewidth=1)
        if np.isfinite(layout.dead(variant, setting)):
            plotting.note(axes, number, setting, f"{100 * layout.dead(variant, setting):.0f} % dead")
        axes.set_ylim(0, 100)
    handles = _settings(layout, DARK)
    if layout.deepest() > 1:
        handles["layer 1"] = Line2D([], [], color=SHADES(0.0))
        handles[f"layer {layout.deepest()}"] = Line2D([], [], color=SHADES(0.9))
    plotting.legend(figure, handles)
    return figure


def weights(layout: Layout, side: int) -> Figure:
    """The first layer's weights of a few units as side x side images: as drawn above, as trained below."""
    setting = layout.settings[0]
    here = [variant for variant in layout.variants if (variant, setting) in layout.run]
    rows = ceil(len(here) / 2)
    figure = Figure(figsize=(WIDTH, 0.3 + 1.15 * rows), layout="constrained")
    grid = figure.subplots(rows, 2, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, variant in zip(grid.flat, here, strict=False):
        W = layout.tensor(variant, setting, "layer1/weight").numpy()  # (2, units, side^2)
        tiles = W.reshape(2, -1, side, side).transpose(0, 2, 1, 3).reshape(2 * side, -1)
        bound = np.quantile(np.abs(W[np.isfinite(W)]), 0.998)
        axes.imshow(tiles, cmap="gray", vmin=-bound, vmax=bound, interpolation="nearest")
        for unit in range(1, W.shape[1]):
            axes.axvline(unit * side - 0.5, color="white", linewidth=1)
        axes.axhline(side - 0.5, color="white", linewidth=2)
        axes.set_title(plotting.titled(variant, setting))
    return figure


def lesson_intervals(lesson: pd.DataFrame) -> Figure:
    """The printed numbers on the central 99 % intervals of our draws, each row scaled to its own interval."""
    rows = list(lesson[lesson["low"].notna()].iloc[::-1].itertuples())
    figure = Figure(figsize=(WIDTH, 0.8 + 0.24 * len(rows)), layout="constrained")
    axes = figure.subplots()
    edge = 1.6
    blue, orange = SERIES[0]["color"], SERIES[1]["color"]
    interval: dict[str, Any] = {"color": blue, "linewidth": 4, "alpha": 0.35, "solid_capstyle": "butt"}
    mean: dict[str, Any] = {"marker": "|", "color": blue, "markersize": 9, "markeredgewidth": 1.6, "linestyle": ""}
    theory: dict[str, Any] = {"marker": "d", "color": orange, "markersize": 5, "linestyle": ""}
    printed: dict[str, Any] = {"color": "black", "markersize": 4.5, "linestyle": ""}
    for y, row in enumerate(rows):
        centre, half = (row.low + row.high) / 2, (row.high - row.low) / 2
        axes.plot([-1, 1], [y, y], **interval)
        axes.plot((float(row.ours) - centre) / half, y, **mean)
        if pd.notna(row.theory):
            axes.plot((float(row.theory) - centre) / half, y, **theory)
        x = (float(row.printed) - centre) / half
        marker = "o" if abs(x) <= edge else (">" if x > 0 else "<")
        fill = "full" if row.verdict == "inside" else "none"
        axes.plot(np.clip(x, -edge, edge), y, marker=marker, fillstyle=fill, **printed)
    labels = [f"{row.source}  {row.quantity if row.source == 'C' else row.expression}" for row in rows]
    numbers = [f"{row.printed}  in  {row.low:.4g} … {row.high:.4g}" for row in rows]
    _label_both_sides(axes, labels, numbers)
    axes.set_xticks([-1, 0, 1], ["0.5 %", "middle", "99.5 %"])
    axes.set_xlim(-edge - 0.1, edge + 0.1)
    handles = {"printed": Line2D([], [], marker="o", **printed), "theory": Line2D([], [], **theory)}
    handles |= {"mean of our draws": Line2D([], [], **mean), "central 99 %": Line2D([], [], **interval)}
    plotting.legend(figure, handles)
    return figure


def _label_both_sides(axes: Axes, left: list[str], right: list[str]) -> None:
    """Labels rows 0, 1, ... on the left and on the right."""
    for side, labels in ((axes, left), (axes.twinx(), right)):
        side.set_yticks(range(len(labels)), labels, fontsize=7)
        side.set_ylim(-0.7, len(labels) - 0.3)
        side.tick_params(axis="y", length=0)
        side.grid(visible=False, axis="y")
        side.spines[["left", "bottom"]].set_visible(False)


def _settings(layout: Layout, color: str | None = None) -> dict[str, Line2D]:
    """Returns a legend of the settings' lines; an empty one if there is a single setting."""
    if layout.settings == [""]:
        return {}
    return {
        plotting.shortened(setting): Line2D([], [], color=color or style["color"], linestyle=style["linestyle"])
        for style, setting in zip(SERIES, layout.settings, strict=False)
    }
