"""Comparison of two recorded runs: weights, every point of every metric, every value of every replica."""

from collections import Counter
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import NamedTuple

import numpy as np
import pandas as pd

from initlab.tracking.recorded_run import RecordedRun

HEADERS = {"differ": "that differ", "begins": "begins at", "largest": "largest difference"}
SHOWN = 16  # metrics that differ, results before statistics of layers


class Row(NamedTuple):
    """What was compared: how many values of it, how many differ, since which step, the largest difference and where."""

    what: str
    values: int
    differ: int
    begins: str = ""
    largest: str = ""


def compare(first: RecordedRun, second: RecordedRun) -> list[Row]:
    """The weights, every history, every replica's values; metrics that agree are one row together."""
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
    """Two histories, [(step, value)] in the order of steps, as sets of points: none may be lost, none doubled."""
    if len(first) == len(second) and all(a == b and _same(x, y) for (a, x), (b, y) in zip(first, second, strict=True)):
        return Row(name, len(first), 0)
    here, there = dict(first), dict(second)
    steps = sorted(step for step in here.keys() | there.keys() if not _same(here.get(step), there.get(step)))
    if not steps:  # the same points, but some of them twice
        times = [Counter(step for step, _ in history) for history in (first, second)]
        twice = sorted(step for step in here if times[0][step] != times[1][step])
        return Row(name, len(first), len(twice), f"step {twice[0]}", "a point is there twice")
    largest = _largest({step: (here.get(step), there.get(step)) for step in steps})
    return Row(name, len(first), len(steps), f"step {steps[0]}", largest)


def _largest(pairs: Mapping[int, tuple[float | None, float | None]]) -> str:
    """Where two series of numbers are furthest apart."""
    gaps = {step: abs(a - b) for step, (a, b) in pairs.items() if a is not None and b is not None}
    known = {step: gap for step, gap in gaps.items() if not np.isnan(gap)}
    if not known:
        return "missing, or NaN"
    step = max(known, key=lambda key: known[key])
    return f"{known[step]:.3g} at step {step}"


def _same(a: float | None, b: float | None) -> bool:
    return a == b or (a is not None and b is not None and np.isnan(a) and np.isnan(b))


def _table(first: str, second: str) -> Row:
    """The tables of replicas, by their text; and if that differs, value by value."""
    one, two = (pd.read_csv(StringIO(text), dtype=str).astype(float) for text in (first, second))  # to the last bit
    if first == second:
        return Row("replicas.csv", int(one.size), 0)
    if list(one.columns) != list(two.columns) or len(one) != len(two):
        return Row("replicas.csv", int(one.size), int(one.size), "its shape", f"{one.shape}, here {two.shape}")
    a, b = one.to_numpy(), two.to_numpy()
    differing = ~((a == b) | (np.isnan(a) & np.isnan(b)))
    if not differing.any():  # the same numbers, written otherwise
        return Row("replicas.csv", int(one.size), 0)
    row, column = np.argwhere(differing)[0]
    gap = np.nanmax(np.abs(a - b)[differing], initial=0.0)
    where = f"step {one['step'][row]:.0f}, replica {one['replica'][row]:.0f}, {one.columns[column]}"
    return Row("replicas.csv", int(one.size), int(differing.sum()), where, f"{gap:.3g}")
