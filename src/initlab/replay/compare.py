"""Compares two recorded runs: weights, every point of every metric, every value of every replica."""

from collections import Counter
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import NamedTuple

import numpy as np
import pandas as pd

from initlab.tracking.recorded_run import RecordedRun

HEADERS = {"differ": "that differ", "begins": "begins at", "largest": "largest difference"}
SHOWN = 16  # differing metrics that are listed, results before layer statistics


class Row(NamedTuple):
    """One line of a comparison.

    values: number compared.  differ: number that differ.  begins: the first step that differs.  largest: the largest
    difference, and where it is.
    """

    what: str
    values: int
    differ: int
    begins: str = ""
    largest: str = ""


def compare(first: RecordedRun, second: RecordedRun) -> list[Row]:
    """Compares the weights, every history and every replica's values. Metrics that agree share one row."""
    weights = [run.tags.get("weights.sha256") for run in (first, second)]
    rows = [Row("weights (SHA-256)", 1, int(weights[0] is None or weights[0] != weights[1]))]
    names = sorted(first.histories.keys() | second.histories.keys())
    metrics = {name: _history(name, first.histories.get(name, []), second.histories.get(name, [])) for name in names}
    differing = sorted((row for row in metrics.values() if row.differ), key=lambda row: row.what.startswith("layer"))
    agreeing = [row for row in metrics.values() if not row.differ]
    rows.append(Row(f"{len(agreeing)} metrics", sum(row.values for row in agreeing), 0))
    rows += differing[:SHOWN]
    if len(differing) > SHOWN:
        rest = differing[SHOWN:]
        rows.append(Row(f"{len(rest)} more", sum(row.values for row in rest), sum(row.differ for row in rest)))
    return [*rows, _table(first.replicas, second.replicas)]


def _history(name: str, first: Sequence[tuple[int, float]], second: Sequence[tuple[int, float]]) -> Row:
    """Compares two histories, [(step, value)] in order of steps. A point that is missing or doubled is a difference."""
    if len(first) == len(second) and all(a == b and _same(x, y) for (a, x), (b, y) in zip(first, second, strict=True)):
        return Row(name, len(first), 0)
    here, there = dict(first), dict(second)
    steps = sorted(step for step in here.keys() | there.keys() if not _same(here.get(step), there.get(step)))
    if not steps:  # the same points, but some are there twice
        times = [Counter(step for step, _ in history) for history in (first, second)]
        twice = sorted(step for step in here if times[0][step] != times[1][step])
        return Row(name, len(first), len(twice), f"step {twice[0]}", "a point is there twice")
    largest = _largest({step: (here.get(step), there.get(step)) for step in steps})
    return Row(name, len(first), len(steps), f"step {steps[0]}", largest)


def _largest(pairs: Mapping[int, tuple[float | None, float | None]]) -> str:
    """Formats the largest difference between two series, and its step."""
    gaps = {step: abs(a - b) for step, (a, b) in pairs.items() if a is not None and b is not None}
    known = {step: gap for step, gap in gaps.items() if not np.isnan(gap)}
    if not known:
        return "missing, or NaN"
    step = max(known, key=lambda key: known[key])
    return f"{known[step]:.3g} at step {step}"


def _same(a: float | None, b: float | None) -> bool:
    """Returns whether two values are equal, or both NaN."""
    return a == b or (a is not None and b is not None and np.isnan(a) and np.isnan(b))


def _table(first: str, second: str) -> Row:
    """Compares the tables of replicas as text and, if that differs, value by value."""
    # As text first: the float parser of read_csv may be off by the last bit.
    one, two = (pd.read_csv(StringIO(text), dtype=str).astype(float) for text in (first, second))
    if first == second:
        return Row("replicas.csv", int(one.size), 0)
    if list(one.columns) != list(two.columns) or len(one) != len(two):
        return Row("replicas.csv", int(one.size), int(one.size), "its shape", f"{one.shape}, here {two.shape}")
    a, b = one.to_numpy(), two.to_numpy()
    differing = ~((a == b) | (np.isnan(a) & np.isnan(b)))
    if not differing.any():  # the same numbers in another format
        return Row("replicas.csv", int(one.size), 0)
    row, column = np.argwhere(differing)[0]
    gap = np.nanmax(np.abs(a - b)[differing], initial=0.0)
    where = f"step {one['step'][row]:.0f}, replica {one['replica'][row]:.0f}, {one.columns[column]}"
    return Row("replicas.csv", int(one.size), int(differing.sum()), where, f"{gap:.3g}")
