"""Tables of a sweep, made from the values of every replica."""

import json
from collections.abc import Sequence
from math import isfinite

import numpy as np
import pandas as pd

from initlab.confidence_intervals import means_ci95

DIGITS = "%.7g"  # float32 has no more
FINAL = ["test/accuracy", "val/accuracy", "val/loss", "train/loss"]


def tables(replicas: pd.DataFrame) -> dict[str, str]:
    """Returns {file name: text} from a sweep's replicas.csv.

    replicas: one row per (run, step, replica), swept keys before `step`.
    comparison.csv, .md: one row per run, best first: means over replicas after the last step, with 95 % intervals.
    metrics/RUN.json: the same, one file per run, for `dvc metrics`.
    validation.csv: one row per (run, step).
    layers.csv: one row per (run, step, layer).
    """
    summary = over_replicas(replicas)
    last = summary.loc[summary.groupby("run", sort=False)["step"].idxmax()].set_index("run")
    final = last[_with_ci95(FINAL, summary)]
    swept = list(replicas.columns[1 : replicas.columns.get_loc("step")])
    comparison = replicas.groupby("run", sort=False)[swept].first().join(final).sort_values(FINAL[0], ascending=False)
    metrics = {f"metrics/{str(run).replace('/', '_')}.json": _json(row) for run, row in final.iterrows()}
    validation = summary[["run", *swept, "step", *_with_ci95(["val/accuracy", "val/loss"], summary)]]
    return {
        "comparison.csv": comparison.to_csv(float_format=DIGITS),
        "comparison.md": _markdown(final.loc[comparison.index]),
        "validation.csv": validation.dropna(subset="val/accuracy").to_csv(index=False, float_format=DIGITS),
        "layers.csv": _by_layer(summary, swept).to_csv(index=False, float_format=DIGITS),
        **metrics,
    }


def over_replicas(replicas: pd.DataFrame) -> pd.DataFrame:
    """Returns the mean of each metric over replicas, and the half-width of its 95 % interval as `<name>.ci95`.

    There is one row per (run, ..., step).
    """
    keys, names = np.split(replicas.columns, [replicas.columns.get_loc("replica")])
    number = replicas.groupby(list(keys), sort=False, dropna=False).ngroup().to_numpy()
    order, counts = np.argsort(number, kind="stable"), np.bincount(number)
    begins = counts.cumsum() - counts
    values = replicas[names[1:]].to_numpy(dtype=float)[order]
    means = np.empty((len(counts), len(names) - 1))
    ci95 = np.full_like(means, np.nan)
    for count in np.unique(counts):  # all groups of the same size at once: there may be hundreds of thousands
        groups = np.flatnonzero(counts == count)
        block = values[begins[groups, None] + np.arange(count)].swapaxes(1, 2)
        means[groups], found = means_ci95(np.ascontiguousarray(block))
        if found is not None:
            ci95[groups] = found
    columns = {}
    for column, name in enumerate(names[1:]):
        columns[name] = means[:, column]
        if counts.max() > 1:
            columns[f"{name}.ci95"] = ci95[:, column]
    return pd.concat([replicas[keys].iloc[order[begins]].reset_index(drop=True), pd.DataFrame(columns)], axis=1)


def _json(row: pd.Series) -> str:
    """Formats {metric: value}. JSON has no NaN, so what diverged is null."""
    return json.dumps({name: value if isfinite(value) else None for name, value in row.items()}, indent=2) + "\n"


def _with_ci95(names: Sequence[str], table: pd.DataFrame) -> list[str]:
    return [column for name in names for column in (name, f"{name}.ci95") if column in table]


def _by_layer(summary: pd.DataFrame, swept: list[str]) -> pd.DataFrame:
    """Turns layer3/act_std, a column of (run, step), into act_std, a column of (run, step, layer)."""
    columns = [name.split("/", 1) for name in summary if name.startswith("layer")]
    pieces = []
    for layer in sorted({int(layer.removeprefix("layer")) for layer, _ in columns}):
        names = {f"layer{layer}/{name}": name for found, name in columns if found == f"layer{layer}"}
        piece = summary[["run", *swept, "step", *names]].dropna(how="all", subset=list(names)).rename(columns=names)
        piece.insert(2 + len(swept), "layer", layer)
        pieces.append(piece)
    return pd.concat(pieces, ignore_index=True)


def _markdown(final: pd.DataFrame) -> str:
    """Formats | run | test/accuracy | ...: mean ± half-width of the 95 % interval."""
    lines = ["| run | " + " | ".join(FINAL) + " |", "|---" * (1 + len(FINAL)) + "|"]
    for run, row in final.iterrows():
        cells = []
        for name in FINAL:
            ci95 = row.get(f"{name}.ci95")
            cells.append(f"{row[name]:.4f}" + ("" if pd.isna(ci95) else f" ± {ci95:.4f}"))
        lines.append(f"| {run} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
