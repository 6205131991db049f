"""Tables of a sweep, made from the values of every replica."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import sha256
from math import isfinite
from typing import Any

import numpy as np
import pandas as pd

from initlab.confidence_intervals import means_ci95

FORMAT: Any = {"float_format": "%.7g", "lineterminator": "\n"}  # float32's digits; the same bytes on Windows
DIVERGED = "diverged"  # column: number of replicas
FORBIDDEN = re.compile(r'[\x00-\x1f<>:"/\\|?*%#]')  # in names of files, on Windows; the last two, in URLs
LONGEST = 120  # bytes of a file's name, without suffix: a path as a whole may have 260 on Windows
FINAL = ["test/accuracy", "val/accuracy", "val/loss", "train/loss"]


def tables(replicas: pd.DataFrame) -> dict[str, str]:
    """Returns {file name: text} from a sweep's replicas.csv.

    replicas: one row per (run, step, replica), swept keys before `step`.
    comparison.csv, .md: one row per run, after the last step; best mean accuracy of all replicas first.
    metrics/RUN.json: the same, one file per run, for `dvc metrics`. See `file_names` for RUN.
    validation.csv: one row per (run, step).
    layers.csv: one row per (run, step, layer), means over all replicas.
    The others have means over the replicas that have not diverged, with 95 % intervals, and the number of those that
    have.
    """
    final, swept = comparison(replicas), swept_keys(replicas)
    validation = over_survivors(replicas.dropna(subset="val/accuracy"))
    names = file_names(final.index)
    return {
        "comparison.csv": final.to_csv(**FORMAT),
        "comparison.md": _markdown(final, last_step(replicas).groupby("run")["replica"].count()),
        "validation.csv": validation[
            ["run", *swept, "step", *_with_ci95(["val/accuracy", "val/loss"], validation), DIVERGED]
        ].to_csv(index=False, **FORMAT),
        "layers.csv": by_layer(replicas).to_csv(index=False, **FORMAT),
        **{
            f"metrics/{names[run]}.json": _json(row)
            for run, row in final[[*_with_ci95(FINAL, final), DIVERGED]].iterrows()
        },
    }


def swept_keys(replicas: pd.DataFrame) -> list[str]:
    """Returns the columns between `run` and `step`."""
    return list(replicas.columns[1 : replicas.columns.get_loc("step")])


def comparison(replicas: pd.DataFrame) -> pd.DataFrame:
    """Returns one row per run, its index: swept values, and `FINAL` after the last step with `<name>.ci95`.

    Means and intervals are over the replicas that have not diverged, and `diverged` is the number of the others. The
    run with the best mean accuracy of all replicas is first.
    """
    last = last_step(replicas)
    ranked = last.groupby("run", sort=False)[FINAL[0]].mean().sort_values(ascending=False, kind="stable").index
    final = over_survivors(last).set_index("run").loc[ranked]
    return final[[*swept_keys(replicas), *_with_ci95(FINAL, final), DIVERGED]]


def last_step(replicas: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows after the last step of each run."""
    return replicas[replicas["step"] == replicas.groupby("run", sort=False)["step"].transform("max")]


def file_names(runs: Iterable[str]) -> dict[str, str]:
    """Returns {run: name of its file, without suffix}: the run's name, if every file system takes it.

    Otherwise characters are replaced, the rest is cut off, and a digest of the run's name is added. Windows allows the
    fewest characters, and like macOS it does not tell upper from lower case.
    """
    runs = list(runs)
    count = Counter(run.casefold() for run in runs)
    names = {}
    for run in runs:
        names[run] = FORBIDDEN.sub("_", run).encode()[:LONGEST].decode(errors="ignore")
        if names[run] != run or count[run.casefold()] > 1:
            names[run] += f"-{sha256(run.encode()).hexdigest()[:8]}"
    return names


def over_survivors(replicas: pd.DataFrame) -> pd.DataFrame:
    """Returns means and intervals of `FINAL` over the replicas whose validation loss is finite: see `over_replicas`.

    They are NaN if none is left. `diverged` is the number of the other replicas.
    """
    keys = list(replicas.columns[: replicas.columns.get_loc("replica")])
    replicas = replicas[[*keys, "replica", *(name for name in FINAL if name in replicas)]]
    alive = np.isfinite(replicas["val/loss"])
    table, found = (over_replicas(rows).set_index(["run", "step"]) for rows in (replicas, replicas[alive]))
    values = table.columns[len(keys) - 2 :]
    table[values] = found.reindex(index=table.index, columns=values)
    table[DIVERGED] = (~alive).groupby([replicas["run"], replicas["step"]]).sum()
    return table.reset_index()


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
        if counts.max(initial=0) > 1:
            columns[f"{name}.ci95"] = ci95[:, column]
    return pd.concat([replicas[keys].iloc[order[begins]].reset_index(drop=True), pd.DataFrame(columns)], axis=1)


def by_layer(replicas: pd.DataFrame) -> pd.DataFrame:
    """Returns the statistics of layers, one row per (run, step, layer): means over all replicas, with `<name>.ci95`.

    layer3/act_std, a column of (run, step), becomes act_std, a column of (run, step, layer).
    """
    summary, swept = over_replicas(replicas), swept_keys(replicas)
    columns = [name.split("/", 1) for name in summary if name.startswith("layer")]
    pieces = []
    for layer in sorted({int(layer.removeprefix("layer")) for layer, _ in columns}):
        names = {f"layer{layer}/{name}": name for found, name in columns if found == f"layer{layer}"}
        piece = summary[["run", *swept, "step", *names]].dropna(how="all", subset=list(names)).rename(columns=names)
        piece.insert(2 + len(swept), "layer", layer)
        pieces.append(piece)
    return pd.concat(pieces, ignore_index=True)


def _json(row: pd.Series) -> str:
    """Formats {metric: value}. JSON has no NaN: if all replicas have diverged, it is null."""
    values = {name: value if isfinite(value) else None for name, value in row.items()}
    return json.dumps(values | {DIVERGED: int(row[DIVERGED])}, indent=2) + "\n"


def _with_ci95(names: Sequence[str], table: pd.DataFrame) -> list[str]:
    return [column for name in names for column in (name, f"{name}.ci95") if column in table]


def _markdown(final: pd.DataFrame, replicas: pd.Series) -> str:
    """Formats | run | test/accuracy | ... | diverged |: mean ± half-width of the 95 % interval, 1 of 8.

    replicas: number of each run's replicas.
    """
    lines = ["| run | " + " | ".join([*FINAL, DIVERGED]) + " |", "|---" * (2 + len(FINAL)) + "|"]
    for run, row in final.iterrows():
        cells = [str(run).replace("|", r"\|")]
        for name in FINAL:
            mean, ci95 = row[name], row.get(f"{name}.ci95")
            cells.append("" if pd.isna(mean) else f"{mean:.4f}" + ("" if pd.isna(ci95) else f" ± {ci95:.4f}"))
        cells.append(f"{row[DIVERGED]} of {replicas[run]}" if row[DIVERGED] else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
