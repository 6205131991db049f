"""The figures of a report: Altair charts, each a function of the sweep's `Layout`."""

from base64 import b64encode
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from PIL import Image

from initlab.confidence_intervals import mean_ci95
from initlab.nn.layer_stats import BINS, HIGH, LOW
from initlab.report import charts, swept, theme
from initlab.report.layout import ACCURACY, MOST_SETTINGS, Layout
from initlab.report.learning_rates import LearningRates
from initlab.report.search import Search

FAR = 8  # percentage points below the best (or from the reference) at which a value is written instead of drawn
MOST_LABELS = 4  # points of a scatter that are named
OFF = 0.1  # distance from theory, |log(measured / theory)|, from which on a point is named
SNAPSHOTS = 10  # of the weights over training, at most
SMALLEST = 0.01  # per cent of activations that a histogram has room for
STEP = 21  # pixels per row of a chart with a row per variant


def figures(layout: Layout, lesson: pd.DataFrame | None = None) -> dict[str, Callable[[], Any]]:
    """Returns {name: function that draws it} of every figure that there is data for.

    Figures of a setting end in its number, if there are several: final_accuracy_2.
    """
    found: dict[str, Callable[[], Any]] = {}
    if layout.search is not None and len(layout.search.keys) <= 2:
        found["search"] = partial(search, layout.search)
    found["overview"] = partial(overview, layout)
    found |= {f"swept_{number}": partial(by_value, view) for number, view in enumerate(swept.views(layout), start=1)}
    if layout.rates is not None:
        best = layout.at(layout.rates.at_best())
        found |= _per_setting(best, {"learning_rate": partial(learning_rate, rates=layout.rates)})
        if len(best.variants) > MOST_SETTINGS:
            found |= _per_setting(best, {"learning_rate_map": partial(learning_rate_map, rates=layout.rates)})
    found |= _per_setting(
        layout,
        {
            "final_accuracy": final_accuracy,
            "difference": difference,
            "accuracy_curves": partial(curves, name="val/accuracy", title="validation accuracy, %", dots=True),
            "loss_curves": partial(curves, name="train/loss", title="training loss"),
        },
    )
    std = "standard deviation of "
    found |= _per_setting(
        layout,
        {
            "activation_std": partial(by_depth, name="act_std", title=f"{std}activations", limits=(1e-3, 1e3)),
            "activation_mean": partial(by_depth, name="act_mean", title="mean of activations", limits=(-1.0, 3.2)),
            "gradients": partial(by_depth, name="delta_std", title=f"{std}dL/dz", limits=(1e-6, 1e2)),
            "theory_act_std": partial(against_theory, name="act_std", title=f"{std}activations"),
            "theory_act_cosine": partial(against_theory, name="act_cosine", title="cosine of two images' activations"),
            "theory_gradients": partial(against_theory, name="delta_std", title=f"{std}dL/dz"),
            "saturated": saturated,
            "histograms": histograms,
            "histogram_reference": partial(histogram_strip, place=0),
            "histogram_other": partial(histogram_strip, place=1),
        },
    )
    if layout.side is not None:
        found |= _per_setting(layout, {"weights": weights})
    if lesson is not None and lesson["low"].notna().any():
        found["lesson"] = partial(lesson_intervals, lesson)
    return {name: partial(_styled, draw) for name, draw in found.items()}


def _styled(draw: Callable[[], Any]) -> Any:
    return theme.styled(draw())


BY_DEPTH = {"activation_std", "activation_mean", "gradients"}  # say little of a single layer, beside deeper networks
NEEDS_HIDDEN = {*BY_DEPTH, "saturated", "histograms", "histogram_reference", "histogram_other"}
NEEDS_HIDDEN |= {"theory_act_std", "theory_act_cosine", "theory_gradients"}


def _per_setting(layout: Layout, draw: dict[str, Callable[..., Any]]) -> dict[str, Callable[[], Any]]:
    """Returns the functions of those settings that have what is drawn."""
    found: dict[str, Callable[[], Any]] = {}
    for name, function in draw.items():
        for number, setting in enumerate(layout.settings, start=1):
            here = [variant for variant, s in layout.run if s == setting]
            if name in NEEDS_HIDDEN and not layout.deepest(setting):
                continue
            if name in BY_DEPTH and layout.deepest(setting) == 1 < layout.deepest():
                continue
            if name == "difference" and not any(layout.difference(v, setting, ACCURACY) for v in here):
                continue
            if name == "histogram_other" and len(with_histograms(layout, setting)) < 2:
                continue
            if name == "theory_act_cosine" and not _compared(layout, setting, "act_cosine")["theory"].notna().any():
                continue
            suffix = f"_{number}" if len(layout.settings) > 1 else ""
            found[name + suffix] = partial(function, layout, setting)
    return found


def overview(layout: Layout) -> Any:
    """The deepest setting at a glance: scale of activations by layer before training, and final accuracy."""
    setting = max(layout.settings, key=layout.deepest)
    parts = [final_accuracy(layout, setting, interactive=False)]
    if layout.deepest(setting):
        title, limits = "standard deviation of activations", (1e-3, 1e3)
        parts.insert(0, by_depth(layout, setting, name="act_std", title=title, limits=limits, interactive=False))
    height = max(theme.HEIGHT, STEP * len(layout.ranking(setting)))
    parts = [part.properties(width=0.8 * theme.WIDTH, height=height) for part in parts]
    return alt.hconcat(*parts, spacing=30)


def final_accuracy(layout: Layout, setting: str, *, interactive: bool = True) -> Any:
    """Test accuracy by variant, best first: every network, and their mean with its interval.

    Networks that have diverged are counted, not drawn.  interactive: whether the axis can be moved.
    """
    ranked = layout.ranking(setting)
    means: list[dict[str, Any]] = []
    networks: list[dict[str, Any]] = []
    for variant in ranked:
        values = layout.survivors(variant, setting, ACCURACY)
        networks += [{"variant": variant, "error": e} for e in theme.error(values)]
        lost = layout.diverged(variant, setting)
        row: dict[str, Any] = {"variant": variant, "value": layout.accuracy(variant, setting)}
        if lost:
            row["lost"] = f"{lost} of {lost + len(values)} diverged"
        if len(values):
            mean, ci95 = mean_ci95(values)
            row |= {"error": theme.error(mean), **charts.accuracy_interval(mean, ci95)}
        means.append(row)
    y = alt.Y("variant:N", sort=ranked, title=None, axis=alt.Axis(grid=True, labelLimit=130))
    x = alt.X("error:Q", **theme.accuracy_axis("test accuracy, %"))
    data, marks = theme.rows(pd.DataFrame(means)), theme.series(layout.variants, layout.reference, lines=False)
    marks = {name: channel.legend(None) for name, channel in marks.items()}
    tooltip = [alt.Tooltip("variant:N"), alt.Tooltip("value:N", title="test accuracy")]
    layers = [
        alt.Chart(theme.rows(pd.DataFrame(networks, columns=["variant", "error"])), name="networks")
        .mark_point(filled=True, size=22)
        .encode(x=x, y=y, color=marks["color"], opacity=theme.emphasis(0.3))
        .add_params(theme.shown(), *[theme.zoom("x")] * interactive),
        alt.Chart(data)
        .mark_rule(strokeWidth=2)
        .encode(x=alt.X("low:Q"), x2="high:Q", y=y, color=marks["color"], opacity=theme.emphasis()),
        alt.Chart(data)
        .mark_point(filled=True, size=75, opacity=1)
        .encode(x=x, y=y, **marks, opacity=theme.emphasis(), tooltip=tooltip),
        alt.Chart(data)
        .transform_filter("isValid(datum.lost)")
        .mark_text(align="right")
        .encode(x=alt.value("width"), y=y, text="lost:N", opacity=theme.emphasis(), tooltip=tooltip),
    ]
    return charts.panel(layers, layout.named(setting), STEP * len(ranked))


def difference(layout: Layout, setting: str) -> Any:
    """Test accuracy minus the reference's, paired by replica, in percentage points, with intervals."""
    ranked = [variant for variant in layout.ranking(setting) if layout.difference(variant, setting, ACCURACY)]
    found = {variant: layout.difference(variant, setting, ACCURACY) for variant in ranked}
    near = [v for v, pair in found.items() if pair is not None and abs(pair[0]) < FAR / 100] or ranked
    table = []
    for variant, pair in found.items():
        assert pair is not None
        mean, ci95 = 100 * pair[0], 100 * pair[1]
        row: dict[str, Any] = {"variant": variant, "value": f"{mean:+.2f} ± {ci95:.2f} points"}
        if variant in near:
            row |= {"mean": mean, "low": mean - ci95, "high": mean + ci95}
        else:
            row["far"] = f"{'◀' if mean < 0 else '▶'} {mean:+.1f} ± {ci95:.1f}"
        table.append(row)
    data = theme.rows(pd.DataFrame(table))
    y = alt.Y("variant:N", sort=ranked, title=None, axis=alt.Axis(grid=True, labelLimit=130))
    title = f"minus {charts.short(layout.reference)}, percentage points"
    marks = theme.series(layout.variants, layout.reference, lines=False)
    marks = {name: channel.legend(None) for name, channel in marks.items()}
    tooltip = [alt.Tooltip("variant:N"), alt.Tooltip("value:N", title=f"minus {charts.short(layout.reference)}")]
    layers = [
        alt.Chart(alt.Data(values=[{}])).mark_rule().encode(x=alt.datum(0)),
        alt.Chart(data, name="intervals")
        .mark_rule(strokeWidth=2)
        .encode(x=alt.X("low:Q", title=title), x2="high:Q", y=y, color=marks["color"], opacity=theme.emphasis())
        .add_params(theme.shown(), theme.zoom("x")),
        alt.Chart(data)
        .mark_point(filled=True, size=75)
        .encode(x="mean:Q", y=y, **marks, opacity=theme.emphasis(), tooltip=tooltip),
        alt.Chart(data)
        .transform_filter("isValid(datum.far)")
        .mark_text(align="left", dx=4)
        .encode(x=alt.value(0), y=y, text="far:N", opacity=theme.emphasis(), tooltip=tooltip),
    ]
    return charts.panel(layers, layout.named(setting), STEP * len(ranked))


def curves(layout: Layout, setting: str, *, name: str, title: str, dots: bool = False) -> Any:
    """A metric over training, the mean of the networks that have not diverged, with its 95 % band."""
    table = []
    for variant in _here(layout, setting):
        for row in layout.steps(variant, setting, name).itertuples():
            ci95 = None if np.isnan(row.ci95) else row.ci95
            found: dict[str, Any] = {"variant": variant, "step": int(row.step)}
            if name == "val/accuracy":
                found |= {
                    "y": theme.error(row.mean),
                    **charts.accuracy_interval(row.mean, ci95),
                    "value": charts.percent(row.mean, ci95),
                }
            elif row.mean > 0:
                low = max(row.mean - (ci95 or 0), row.mean / 4)
                found |= {
                    "y": row.mean,
                    "low": low,
                    "high": row.mean + (ci95 or 0),
                    "value": charts.number(row.mean, ci95),
                }
            table.append(found)
    axis = theme.accuracy_axis(title) if name == "val/accuracy" else theme.log_axis(title)
    options: dict[str, Any] = {"x": "step", "x_title": "optimiser step", "y": axis, "tooltip": title, "dots": dots}
    return _lines(pd.DataFrame(table), layout, setting, **options)


def by_depth(
    layout: Layout, setting: str, *, name: str, title: str, limits: tuple[float, float], interactive: bool = True
) -> Any:
    """A statistic of each hidden layer before the first step, with 95 % intervals over replicas.

    limits: the largest range of the axis; curves end where they leave it. Logarithmic, if they are positive.
    """
    table = _compared(layout, setting, name)
    log = limits[0] > 0
    if log:
        table = table[~(table["y"] <= 0)]
        table["low"] = np.maximum(table["low"], table["y"] / 4)
    inside = table[table["y"].between(*limits)]
    ends = inside[["low", "high"]].clip(*limits)
    domain = [ends["low"].min(), ends["high"].max()] if len(inside) else list(limits)
    if domain[0] == domain[1]:
        domain = [domain[0] * 0.8, domain[1] * 1.25] if log else [domain[0] - 0.1, domain[1] + 0.1]
    axis = theme.log_axis(title, domain) if log else {"scale": alt.Scale(domain=domain, padding=8), "title": title}
    options: dict[str, Any] = {"x": "layer", "x_title": "hidden layer", "y": axis, "tooltip": title, "dots": True}
    return _lines(table, layout, setting, interactive=interactive, **options)


def against_theory(layout: Layout, setting: str, *, name: str, title: str) -> Any:
    """Measured over theory before the first step, one point per variant and hidden layer. At 1 both agree.

    Of the variants that are farthest from theory, the farthest point is named.
    """
    table = _compared(layout, setting, name)
    table = table[(table["y"] > 0) & (table["theory"] > 0) & np.isfinite(table["y"]) & np.isfinite(table["theory"])]
    table = table.assign(ratio=table["y"] / table["theory"])
    table["off"] = np.log(table["ratio"]).abs()
    farthest = table.loc[table.groupby("variant", sort=False)["off"].idxmax()]
    named = farthest[farthest["off"] > OFF].nlargest(MOST_LABELS, "off")
    named = named.assign(label=[f"{charts.short(row.variant)}, layer {row.layer}" for row in named.itertuples()])
    middle = np.sqrt(table["theory"].min() * table["theory"].max())
    marks = theme.series(layout.variants, layout.reference, lines=False)
    channels = {
        "x": alt.X("theory:Q", **theme.log_axis(f"{title}: theory")),
        "y": alt.Y("ratio:Q", **theme.log_axis("measured / theory")),
    }
    tooltip = [alt.Tooltip("variant:N"), alt.Tooltip("layer:Q"), alt.Tooltip("value:N", title="measured")]
    tooltip += [alt.Tooltip("theory:Q", format=".4g"), alt.Tooltip("ratio:Q", title="measured / theory", format=".3f")]
    layers = [
        alt.Chart(theme.rows(table), name="points")
        .mark_point(size=45, filled=True)
        .encode(**channels, **marks, opacity=theme.emphasis(0.8), tooltip=tooltip)
        .add_params(theme.shown(), theme.zoom()),
        alt.Chart(alt.Data(values=[{}])).mark_rule(opacity=0.6).encode(y=alt.datum(1)),
    ]
    for part, side in ((named[named["theory"] < middle], 1), (named[named["theory"] >= middle], -1)):
        if len(part):
            text = alt.Chart(theme.rows(part)).mark_text(align="left" if side > 0 else "right", dx=7 * side, limit=160)
            layers.append(text.encode(**channels, text="label:N", opacity=theme.emphasis()))
    return charts.panel(layers, layout.named(setting))


def saturated(layout: Layout, setting: str) -> Any:
    """Share of saturated pre-activations over training. Deep networks have a slider for the layer."""
    table = []
    for variant in _here(layout, setting):
        for layer in range(1, layout.hidden(variant, setting) + 1):
            found = layout.steps(variant, setting, f"layer{layer}/saturated_fraction")
            columns = {"steps": theme.packed(found["step"]), "percents": theme.packed(100 * found["mean"])}
            table.append({"variant": variant, "layer": layer, **columns})
    deepest = layout.deepest(setting)
    marks = theme.series(layout.variants, layout.reference)
    tooltip = [alt.Tooltip("variant:N"), alt.Tooltip("step:Q"), alt.Tooltip("percent:Q", format=".1f")]
    line = (
        alt.Chart(theme.rows(pd.DataFrame(table)), name="lines")
        .transform_filter("datum.layer == layer")
        .transform_calculate(step=theme.unpacked("steps"), percent=theme.unpacked("percents"))
        .transform_flatten(["step", "percent"])
        .mark_line()
        .encode(
            x=alt.X("step:Q", title="optimiser step", scale=alt.Scale(nice=False)),
            y=alt.Y("percent:Q", title="saturated pre-activations, %", scale=alt.Scale(domain=[0, 100])),
            **theme.without_shape(marks),
            opacity=theme.emphasis(),
            tooltip=tooltip,
        )
        .add_params(theme.shown(), charts.slider("layer", 1, deepest, 1, "hidden layer"))
    )
    return charts.panel([line], layout.named(setting))


def histograms(layout: Layout, setting: str) -> Any:
    """Activations of the reference and of another variant: a histogram as a curve, sliders for layer and time."""
    table, deepest, last = [], 1, 0
    for variant in with_histograms(layout, setting):
        steps = layout.tensor(variant, setting, "step").tolist()
        last = max(last, len(steps) - 1)
        deepest = max(deepest, layout.hidden(variant, setting))
        for layer in range(1, layout.hidden(variant, setting) + 1):
            for at, (step, percent) in enumerate(
                zip(steps, _percentages(layout, variant, setting, layer), strict=True)
            ):
                row = {"variant": variant, "layer": layer, "at": at, "step": step, "percents": theme.packed(percent)}
                table.append(row)
    width = (HIGH - LOW) / BINS
    marks = theme.without_shape(theme.series(layout.variants, layout.reference))
    base = alt.Chart(theme.rows(pd.DataFrame(table))).transform_filter(
        "datum.layer == layer && datum.at == measurement"
    )
    line = (
        base.transform_calculate(
            activation=f"sequence({LOW + width / 2}, {HIGH}, {width})", percent=theme.unpacked("percents")
        )
        .transform_flatten(["activation", "percent"])
        .transform_filter(f"datum.percent >= {SMALLEST}")
        .mark_line(interpolate="step", strokeWidth=2)
        .encode(
            x=alt.X("activation:Q", title="activation", scale=alt.Scale(domain=[LOW, HIGH], nice=False)),
            y=alt.Y("percent:Q", **theme.log_axis("activations per bin, %", (SMALLEST, 100))),
            **marks,
            opacity=theme.emphasis(),
            tooltip=[
                alt.Tooltip("variant:N"),
                alt.Tooltip("activation:Q", title="activation, middle of the bin", format=".3f"),
                alt.Tooltip("percent:Q", title="%", format=".3~g"),
            ],
        )
        .add_params(
            theme.shown(),
            charts.slider("layer", 1, deepest, 1, "hidden layer"),
            charts.slider("measurement", 0, last, 0, "time, 0 is before training"),
        )
        .properties(name="curves")
    )
    text = (
        base.transform_aggregate(step="max(step)")
        .mark_text(align="right", baseline="top")
        .transform_calculate(label="datum.step == null ? '' : 'before step ' + format(datum.step, ',')")
    )
    return charts.panel(
        [line, text.encode(x=alt.value("width"), y=alt.value(0), text="label:N")], layout.named(setting)
    )


def histogram_strip(layout: Layout, setting: str, *, place: int) -> Any:
    """Activations of one variant over all of training: each column is a histogram. A slider chooses the layer."""
    variant = with_histograms(layout, setting)[place]
    steps = layout.tensor(variant, setting, "step").tolist()
    ends = [*steps[1:], steps[-1] + (steps[-1] - steps[-2] if len(steps) > 1 else 1)]
    table = []
    for layer in range(1, layout.hidden(variant, setting) + 1):
        for step, end, percent in zip(steps, ends, _percentages(layout, variant, setting, layer), strict=True):
            table.append({"layer": layer, "step": step, "end": end, "percents": theme.packed(percent)})
    width = (HIGH - LOW) / BINS
    scale = alt.Scale(scheme=theme.SCHEME, type="log", domain=[SMALLEST, 60], clamp=True)
    chart = (
        alt.Chart(theme.rows(pd.DataFrame(table)), name="strip")
        .transform_filter("datum.layer == layer")
        .transform_calculate(low=f"sequence({LOW}, {HIGH}, {width})", percent=theme.unpacked("percents"))
        .transform_flatten(["low", "percent"])
        .transform_calculate(high=f"datum.low + {width}", share=f"max(datum.percent, {SMALLEST})")
        .mark_rect(x2Offset=0.6, y2Offset=-0.6)  # closes the seams
        .encode(
            x=alt.X("step:Q", title="optimiser step", scale=alt.Scale(nice=False)),
            x2="end:Q",
            y=alt.Y("low:Q", title="activation", scale=alt.Scale(nice=False)),
            y2="high:Q",
            color=alt.Color("share:Q", scale=scale, legend=alt.Legend(title="activations per bin, %", format="~g")),
            tooltip=[
                alt.Tooltip("step:Q", format=","),
                alt.Tooltip("low:Q", title="activation from", format=".3~f"),
                alt.Tooltip("high:Q", title="to", format=".3~f"),
                alt.Tooltip("percent:Q", title="%"),
            ],
        )
        .add_params(charts.slider("layer", 1, layout.hidden(variant, setting), 1, "hidden layer"))
    )
    return charts.panel([chart], ", ".join(filter(None, [charts.short(variant), layout.named(setting)])))


def weights(layout: Layout, setting: str) -> Any:
    """First-layer weights of ten units of one network, as images. A slider moves through training."""
    variants = list(dict.fromkeys([*with_histograms(layout, setting), *layout.pair(setting)]))[:2]
    side = layout.side
    assert side is not None
    table, last = [], 0
    for variant in variants:
        W = layout.tensor(variant, setting, "layer1/weight").numpy()  # (E + 1, units, side^2)
        kept = np.unique(np.linspace(0, len(W) - 1, min(len(W), SNAPSHOTS)).round().astype(int))
        last = max(last, len(kept) - 1)
        finite = np.abs(W[np.isfinite(W)])
        bound = max(float(np.quantile(finite, 0.998)) if finite.size else 1.0, 1e-30)
        for at, epoch in enumerate(kept):
            label = "as drawn" if not epoch else f"after epoch {epoch}"
            picture = _picture(W[epoch], side, bound)
            table.append({"variant": variant, "at": at, "epoch": label, "picture": picture})
    y = alt.Y("variant:N", sort=variants, title=None, axis=alt.Axis(domain=False, ticks=False, labelLimit=130))
    base = alt.Chart(theme.rows(pd.DataFrame(table))).transform_filter("datum.at == snapshot")
    images = (
        base.mark_image(width=alt.ExprRef("width"), height=60, aspect=False, align="left", smooth=False)
        .encode(x=alt.value(0), y=y, url="picture:N", tooltip=[alt.Tooltip("variant:N"), alt.Tooltip("epoch:N")])
        .add_params(charts.slider("snapshot", 0, last, last, "epoch" if last + 1 < SNAPSHOTS else "time"))
        .properties(name="pictures")
    )
    label = base.transform_aggregate(epoch="min(epoch)").mark_text(align="left", baseline="bottom", dy=-2)
    label = label.encode(x=alt.value(0), y=alt.value(0), text="epoch:N")
    return charts.panel([images, label], layout.named(setting), 70 * len(variants))


def learning_rate(layout: Layout, setting: str, *, rates: LearningRates) -> Any:
    """Validation accuracy by learning rate with its 95 % band; a ring marks the best rate.

    layout: of the runs at the best rates.
    """
    table = []
    for variant in _here(layout, setting):
        best = None if rates.hopeless(variant, setting) else rates.best(variant, setting)["rate"]
        for row in rates.curves[variant, setting].itertuples():
            ci95 = None if np.isnan(row.ci95) else row.ci95
            lost = f", {row.diverged} of {row.replicas} diverged" if row.diverged else ""
            found = {
                "variant": variant,
                "rate": row.rate,
                "y": theme.error(row.mean),
                **charts.accuracy_interval(row.mean, ci95),
            }
            found |= {"value": charts.percent(row.mean, ci95) + lost, "best": row.rate == best}
            table.append(found)
    frame, title = pd.DataFrame(table), "validation accuracy, %"
    axis = theme.accuracy_axis(title)
    chart = _lines(
        frame, layout, setting, x="rate", x_title="learning rate", y=axis, tooltip=title, dots=True, log_x=True
    )
    ring = (
        alt.Chart(theme.rows(frame[frame["best"]]))
        .mark_point(size=160, strokeWidth=2)
        .encode(
            x="rate:Q",
            y="y:Q",
            color=theme.series(layout.variants, layout.reference)["color"],
            opacity=theme.emphasis(),
        )
    )
    return chart + ring


def learning_rate_map(layout: Layout, setting: str, *, rates: LearningRates) -> Any:
    """Validation accuracy in per cent by variant and learning rate; a frame marks each variant's best."""
    table = []
    for variant in layout.ranking(setting):
        best = None if rates.hopeless(variant, setting) else rates.best(variant, setting)["run"]
        for row in rates.curves[variant, setting].itertuples():
            cell = {"y": variant, "x": f"{row.rate:g}", "accuracy": row.mean, "best": row.run == best}
            table.append(cell | {"diverged": row.diverged, "replicas": row.replicas})
    columns = [f"{rate:g}" for rate in rates.rates]
    view = swept.Map("learning rate", "", columns, layout.ranking(setting), pd.DataFrame(table))
    return charts.heat_map(view, layout.named(setting), "validation accuracy, %")


def by_value(view: "swept.Curves | swept.Map") -> Any:
    """Test accuracy over a number that was swept, a line per rest; or a map over two things that were swept."""
    if isinstance(view, swept.Map):
        return charts.heat_map(view, "", "test accuracy, %")
    variants = list(dict.fromkeys(view.table["variant"]))
    table = [
        {"variant": row.variant, "x": row.x, "y": theme.error(row.mean), **charts.accuracy_interval(row.mean, row.ci95)}
        | {"value": charts.percent(row.mean, row.ci95) + row.lost}
        for row in view.table.itertuples()
    ]
    axis = theme.accuracy_axis("test accuracy, %")
    reference = "kaiming" if "kaiming" in variants else variants[0]
    options: dict[str, Any] = {"x": "x", "x_title": view.x, "y": axis, "tooltip": "test accuracy", "dots": True}
    return charts.lines(pd.DataFrame(table), variants, reference, "", log_x=view.log, **options)


def search(found: Search) -> Any:
    """Validation accuracy of every run against the number that was searched; with two numbers, it is the colour."""
    table = found.runs.assign(
        error=theme.error(found.runs["mean"]),
        value=[charts.percent(row.mean, row.ci95) for row in found.runs.itertuples()],
        trial=[found.label(run) for run in found.runs["run"]],
    )
    table = table.rename(columns={key: f"key{number}" for number, key in enumerate(found.keys)})
    low, high = zip(*(charts.accuracy_ends(row.mean, row.ci95) for row in table.itertuples()), strict=True)
    table = table.assign(low=low, high=high)
    columns = [*(f"key{number}" for number in range(len(found.keys))), "error", "low", "high", "value", "trial", "run"]
    data = theme.rows(table[columns])
    x = alt.X("key0:Q", title=found.keys[0], scale=charts.spread(table["key0"]))
    tooltip = [alt.Tooltip("trial:N"), alt.Tooltip("value:N", title="validation accuracy")]
    accuracy = theme.accuracy_axis("validation accuracy, %")
    if len(found.keys) == 1:
        y = alt.Y("error:Q", **accuracy)
        color: Any = alt.value(theme.COLORS[0])
    else:
        y = alt.Y("key1:Q", title=found.keys[1], scale=charts.spread(table["key1"]))
        worst = float(np.quantile(table["error"], 0.75))  # most colours are for the better runs
        domain = [min(worst, float(table["error"].max())), float(table["error"].min())]
        scale = alt.Scale(scheme=theme.SCHEME, type="log", domain=domain, clamp=True)
        legend = alt.Legend(title="validation accuracy, %", labelExpr="format(100 - datum.value, '.4~f')")
        color = alt.Color("error:Q", scale=scale, legend=legend)
    layers = [
        alt.Chart(data, name="trials")
        .mark_point(filled=True, size=70, opacity=1, stroke=theme.INK, strokeWidth=0.5)
        .encode(x=x, y=y, color=color, tooltip=tooltip)
        .add_params(theme.zoom())
    ]
    if len(found.keys) == 1:
        layers.insert(0, alt.Chart(data).mark_rule().encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=color))
    for name, run, shape in [("first", found.first, "square"), ("best", found.best, "circle")]:
        ring = alt.Chart(theme.rows(table[columns][table["run"] == run["run"]]))
        ring = ring.mark_point(size=220, shape=shape, strokeWidth=2, color=theme.MARKED).encode(x=x, y=y)
        text = alt.Chart(theme.rows(table[columns][table["run"] == run["run"]]))
        text = text.mark_text(align="left", dx=10, dy=-8).encode(x=x, y=y, text=alt.value(name))
        layers += [ring, text]
    return alt.layer(*layers).properties(width=theme.WIDTH, height=theme.HEIGHT)


def lesson_intervals(lesson: pd.DataFrame) -> Any:
    """The printed numbers on the central 99 % intervals of our draws, each row scaled to its own interval."""
    rows = lesson.assign(number=range(1, len(lesson) + 1))
    rows = rows[rows["low"].notna()].reset_index(drop=True)
    centre, half = (rows["low"] + rows["high"]) / 2, (rows["high"] - rows["low"]) / 2
    edge = 1.6

    def place(column: str) -> pd.Series:
        return ((pd.to_numeric(rows[column], errors="coerce") - centre) / half).clip(-edge, edge)

    table = pd.DataFrame(
        {
            "row": [
                f"{row.number}. {row.quantity if row.source == 'C' else row.expression}" for row in rows.itertuples()
            ],
            **{name: place(name) for name in ("printed", "ours", "theory")},
            "verdict": rows["verdict"],
            "numbers": [f"{row.printed} in {row.low:.4g} … {row.high:.4g}" for row in rows.itertuples()],
            "low": -1.0,
            "high": 1.0,
        }
    )
    y = alt.Y("row:N", sort=list(table["row"]), title=None, axis=alt.Axis(labelLimit=theme.WIDE, grid=False))
    label = "datum.value == -1 ? '0.5 %' : datum.value == 1 ? '99.5 %' : 'middle'"
    axis = alt.Axis(values=[-1, 0, 1], labelExpr=label, title="central 99 % of our draws")
    x: dict[str, Any] = {"scale": alt.Scale(domain=[-edge - 0.1, edge + 0.1]), "axis": axis}
    tooltip = [alt.Tooltip("row:N", title="number"), alt.Tooltip("numbers:N", title="printed"), "verdict:N"]
    long = table.melt(["row", "numbers", "verdict"], ["ours", "theory", "printed"], "what", "x").dropna(subset="x")
    long["what"] = long["what"].map({"ours": "mean of our draws", "theory": "theory", "printed": "printed"})
    domain = ["printed", "theory", "mean of our draws"]
    shapes = alt.Scale(domain=domain, range=["circle", "diamond", "stroke"])
    colors = alt.Scale(domain=domain, range=[theme.INK, theme.COLORS[1], theme.COLORS[0]])
    open_outside = alt.when("datum.what == 'printed' && datum.verdict == 'outside'").then(alt.value(0))
    layers = [
        alt.Chart(theme.rows(table), name="intervals")
        .mark_rule(strokeWidth=6, color=theme.COLORS[0], opacity=0.3)
        .encode(x=alt.X("low:Q", **x), x2="high:Q", y=y),
        alt.Chart(theme.rows(long))
        .mark_point(size=55, strokeWidth=2, angle=0)
        .encode(
            x=alt.X("x:Q", **x),
            y=y,
            shape=alt.Shape("what:N", scale=shapes, legend=alt.Legend(title=None)),
            color=alt.Color("what:N", scale=colors, legend=alt.Legend(title=None)),
            fill=alt.Fill("what:N", scale=colors, legend=alt.Legend(title=None)),
            fillOpacity=open_outside.otherwise(alt.value(1)),
            tooltip=tooltip,
        ),
    ]
    return alt.layer(*layers).properties(width=theme.WIDTH, height=17 * len(table))


def _lines(table: pd.DataFrame, layout: Layout, setting: str, **options: Any) -> Any:
    return charts.lines(table, layout.variants, layout.reference, layout.named(setting), **options)


def _compared(layout: Layout, setting: str, name: str) -> pd.DataFrame:
    """Returns variant, layer, y (measured), low, high, value, theory of each hidden layer before the first step."""
    found = []
    for variant in _here(layout, setting):
        if layout.hidden(variant, setting):
            layers = (
                layout.gradients(variant, setting) if name == "delta_std" else layout.layers(variant, setting, name)
            )
            found.append(layers.assign(variant=variant))
    if not found:
        return pd.DataFrame(columns=["variant", "layer", "y", "low", "high", "value", "theory"])
    table = pd.concat(found, ignore_index=True)
    ci95 = table["ci95"].fillna(0)
    value = [charts.number(row.mean, None if np.isnan(row.ci95) else row.ci95) for row in table.itertuples()]
    table = table.assign(y=table["mean"], low=table["mean"] - ci95, high=table["mean"] + ci95, value=value)
    return table[["variant", "layer", "y", "low", "high", "value", "theory"]]


def _percentages(layout: Layout, variant: str, setting: str, layer: int) -> Iterator[np.ndarray]:
    """Yields the histogram of a layer's activations in per cent, one per measurement (bins,)."""
    for counts in layout.tensor(variant, setting, f"layer{layer}/histogram").numpy():
        yield 100 * counts / max(counts.sum(), 1)


def _picture(W: np.ndarray, side: int, bound: float) -> str:
    """Returns weights (units, side^2) side by side as a PNG's data URL: -bound is black, bound is white."""
    gap = np.full((len(W), side, 1), bound)
    tiles = np.concatenate([W.reshape(-1, side, side), gap], axis=2).transpose(1, 0, 2).reshape(side, -1)
    grey = np.clip(128 + 127 * np.nan_to_num(tiles, nan=0.0, posinf=bound, neginf=-bound) / bound, 0, 255)
    data = BytesIO()
    Image.fromarray(grey.astype(np.uint8)).save(data, format="png", optimize=True)
    return f"data:image/png;base64,{b64encode(data.getvalue()).decode()}"


def _here(layout: Layout, setting: str) -> list[str]:
    return [variant for variant, s in layout.run if s == setting]


def with_histograms(layout: Layout, setting: str) -> list[str]:
    """Returns the two variants whose activations are shown over training."""
    pair = dict.fromkeys([*layout.pair(setting), *_here(layout, setting)])
    return [variant for variant in pair if layout.hidden(variant, setting)][:2]
