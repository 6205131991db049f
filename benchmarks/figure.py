"""Figures: the time of one network's epoch in each program, and the rates of tracking stores."""

from pathlib import Path

import altair as alt
import pandas as pd

from initlab.report import theme

OURS, OTHERS = theme.COLORS[0], "#9a9a9a"


def draw(table: pd.DataFrame, path: Path) -> None:
    """Draws the table of side_by_side, slowest program on top, and saves it.

    The axis is logarithmic, since times span orders of magnitude.
    """
    table = table[table["program"] != "initlab, steps alone"].sort_values("s a replica", ascending=False)
    labels = [
        f"{row.program.replace('`', '')}{f' ({row.replicas})' if row.replicas > 1 else ''}"
        for row in table.itertuples()
    ]
    seconds = table["s a replica"]
    rows = pd.DataFrame({"program": labels, "seconds": seconds, "text": [f"{s:.3g}" for s in seconds]})
    rows["color"] = [OURS if name.startswith("initlab") else OTHERS for name in labels]
    base = alt.Chart(theme.rows(rows)).encode(
        y=alt.Y("program:N", sort=labels, title=None, axis=alt.Axis(labelLimit=300))
    )
    axis = theme.log_axis(
        "seconds per epoch and network (replicas in brackets)", (0.8 * seconds.min(), 1.6 * seconds.max())
    )
    dots = base.mark_point(filled=True, size=90, opacity=1).encode(
        x=alt.X("seconds:Q", **axis), color=alt.Color("color:N", scale=None)
    )
    numbers = base.mark_text(align="left", dx=9).encode(x=alt.X("seconds:Q", **axis), text="text:N")
    _save((dots + numbers).properties(width=theme.WIDTH), path)


def draw_rates(table: pd.DataFrame, path: Path) -> None:
    """Draws the table of tracker, one panel per kind of write and one line per store, and saves it."""
    writers = [name for name in table.columns if str(name).isdecimal()]
    rows = table.melt(["what", "store"], writers, "processes", "rate").astype({"processes": int})
    axis = alt.Axis(values=[int(name) for name in writers])
    encoding = {
        "x": alt.X("processes:Q", scale=theme.scale(log=True, padding=8), axis=axis, title="processes at once"),
        "y": alt.Y("rate:Q", title="per second"),
        "color": alt.Color("store:N", scale=alt.Scale(range=theme.COLORS), title=None),
        "shape": alt.Shape("store:N", legend=None),
    }
    panels = []
    for what in table["what"].unique():
        chart = alt.Chart(theme.rows(rows[rows["what"] == what])).mark_line(point={"filled": True, "size": 45})
        panels.append(chart.encode(**encoding).properties(width=190, height=180, title=what))
    _save(alt.hconcat(*panels).resolve_scale(y="independent"), path)


def _save(chart: alt.TopLevelMixin, path: Path) -> None:
    path.write_text(theme.svg(theme.styled(chart).to_dict()), encoding="utf-8", newline="\n")
