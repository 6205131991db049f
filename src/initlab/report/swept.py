"""What a sweep varied, as curves over a number (depth, width, batch size, ...) or as a map over two things."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from initlab.confidence_intervals import mean_ci95
from initlab.report.layout import ACCURACY, Layout
from initlab.report.learning_rates import KEY
from initlab.report.search import number
from initlab.tracking.results import Results

FEWEST = 3  # values of a number that make a curve worth drawing
HIDDEN = "model.hidden"


class Curves(NamedTuple):
    """Test accuracy over a number. x: its name.  log: whether its values are spread over a decade or more.

    table: one row per run: variant (what else differs), x, mean, ci95, lost (", 1 of 8 diverged" or nothing).
    """

    x: str
    log: bool
    table: pd.DataFrame


class Map(NamedTuple):
    """Accuracy over two things. x, y: their names.  columns, rows: their values in order.

    table: one row per run: x, y, accuracy, diverged, replicas, best (whether it is the best of its row).
    """

    x: str
    y: str
    columns: list[str]
    rows: list[str]
    table: pd.DataFrame


def views(layout: Layout) -> list[Curves | Map]:
    """Returns what the figures over swept values show; nothing for a search, or if only schemes and rates vary."""
    if layout.search is not None:
        return []
    results = layout.results
    names = [key for key in layout.varied if key != KEY]
    if KEY in layout.varied:  # each variant has a run at each rate: the figures of learning rates show them
        return []
    columns = {key: _column(results, key) for key in names}
    numbers = {key: found for key, found in columns.items() if len({*found[1].values()}) >= FEWEST}
    numbers = {key: found for key, found in numbers.items() if np.isfinite([*found[1].values()]).all()}
    texts = [key for key in names if key not in numbers and key != "init"]
    if len(numbers) == 1 and len(names) <= 3:
        ((key, (title, values)),) = numbers.items()
        return [_curves(layout, title, values, [k for k in names if k != key])]
    if len(numbers) == 2 and len(names) == 2:
        (_, (x, across)), (_, (y, down)) = numbers.items()
        return [_map(layout, x, y, {r: f"{v:g}" for r, v in across.items()}, {r: f"{v:g}" for r, v in down.items()})]
    if not numbers and len(texts) == 1 and set(names) == {"init", *texts}:
        chosen, schemes = ({run: _value(results, run, key) for run in results.runs} for key in (texts[0], "init"))
        if len({*chosen.values()}) >= FEWEST:
            return [_map(layout, texts[0], "init", chosen, schemes)]
    return []


def _column(results: Results, key: str) -> tuple[str, dict[str, float]]:
    """Returns the name of a number and its value in each run; of `model.hidden`, the depth, or else the width."""
    if key not in (HIDDEN, "model"):
        return key, {run: number(_value(results, run, key)) for run in results.runs}
    hidden = {run: record["config"]["model"]["hidden"] for run, record in results.runs.items()}
    depths = {run: float(len(widths)) for run, widths in hidden.items()}
    if len({*depths.values()}) > 1:
        return "hidden layers", depths
    alike = all(len({*widths}) == 1 for widths in hidden.values())
    return "width of the hidden layers", {run: float(w[0]) if alike else np.nan for run, w in hidden.items()}


def _value(results: Results, run: str, key: str) -> str:
    return str(results.runs[run]["overrides"].get(key, ""))


def _curves(layout: Layout, title: str, values: dict[str, float], others: list[str]) -> Curves:
    rows = []
    for run, x in values.items():
        words = {key: _value(layout.results, run, key) for key in others}
        rest = [word if key == "init" else f"{key}={word}" for key, word in words.items()]
        mean, ci95, lost, replicas = _score(layout, run)
        text = f", {lost} of {replicas} diverged" if lost else ""
        rows.append((", ".join(rest) or "all runs", x, mean, np.nan if ci95 is None else ci95, text))
    table = pd.DataFrame(rows, columns=["variant", "x", "mean", "ci95", "lost"]).sort_values("x", kind="stable")
    return Curves(title, 0 < 10 * min(values.values()) <= max(values.values()), table)


def _map(layout: Layout, x: str, y: str, across: dict[str, str], down: dict[str, str]) -> Map:
    rows = []
    for run in layout.results.runs:
        mean, _, lost, replicas = _score(layout, run)
        rows.append((across[run], down[run], mean, lost, replicas))
    table = pd.DataFrame(rows, columns=["x", "y", "accuracy", "diverged", "replicas"])
    table["best"] = table.index.isin(table.groupby("y", sort=False)["accuracy"].idxmax())
    columns, names = (sorted(dict.fromkeys(values.values()), key=_order) for values in (across, down))
    return Map(x, y, columns, names, table)


def _order(text: str) -> tuple[float, str]:
    """Sorts numbers by value; texts stay in alphabetical order after them."""
    value = number(text)
    return (value, "") if np.isfinite(value) else (np.inf, text)


def _score(layout: Layout, run: str) -> tuple[float, float | None, int, int]:
    """Returns mean and half-width of test accuracy over all replicas, how many have diverged, and of how many.

    A network that has diverged counts with what it guesses, so that a run which may diverge ranks low.
    """
    ends = layout.ends[run]
    mean, ci95 = mean_ci95(ends[ACCURACY].to_numpy())
    return mean, ci95, int((~np.isfinite(ends["val/loss"])).sum()), len(ends)
