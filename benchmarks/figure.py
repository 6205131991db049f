"""Figures: the time of one network's epoch in each program, and the rates of tracking stores."""

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd


def draw(table: pd.DataFrame, path: Path) -> None:
    """Draws the table of side_by_side, slowest program on top, and saves it.

    The axis is logarithmic, since times span orders of magnitude.
    """
    table = table[table["program"] != "initlab, steps alone"].sort_values("s a replica", ascending=False)
    labels = [
        f"{row.program.replace('`', '')}{f' ({row.replicas})' if row.replicas > 1 else ''}"
        for row in table.itertuples()
    ]
    ours = table["program"].str.startswith("initlab")
    mpl.rcParams["svg.hashsalt"] = "initlab"
    figure, axes = plt.subplots(figsize=(8, 0.32 * len(table) + 1), layout="constrained")
    bars = axes.barh(labels, table["s a replica"], color=["C0" if one else "0.7" for one in ours])
    axes.bar_label(bars, [f"{seconds:.3g}" for seconds in table["s a replica"]], padding=3)
    axes.set(xscale="log", xlabel="seconds an epoch and network (replicas in brackets)")
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def draw_rates(table: pd.DataFrame, path: Path) -> None:
    """Draws the table of tracker, one panel per kind of write and one line per store, and saves it."""
    writes = table["what"].unique()
    mpl.rcParams["svg.hashsalt"] = "initlab"
    figure, panels = plt.subplots(1, len(writes), figsize=(8, 2.4), layout="constrained")
    writers = [name for name in table.columns if str(name).isdecimal()]
    for what, axes in zip(writes, panels, strict=True):
        for row in table[table["what"] == what].to_dict("records"):
            axes.plot([int(name) for name in writers], [row[name] for name in writers], "o-", label=row["store"])
        axes.set(xscale="log", ylim=(0, None), title=what, xlabel="processes at once")
        axes.set_xticks([int(name) for name in writers], writers)
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("a second")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
