"""A sweep over learning rates: how accurate each variant is at each rate, and at which it is best."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from initlab.report.search import scored

KEY = "optimizer.lr"
FEWEST = 3  # learning rates that make a curve worth drawing


class LearningRates(NamedTuple):
    """curves: {(variant, setting): one row per learning rate, smallest first}, with the columns of `search.scored`.

    `rate` is the learning rate, and `alike` says whether it is not significantly worse than the curve's best.
    """

    curves: dict[tuple[str, str], pd.DataFrame]

    @property
    def rates(self) -> list[float]:
        """All learning rates, smallest first."""
        return sorted({rate for curve in self.curves.values() for rate in curve["rate"]})

    def best(self, variant: str, setting: str) -> pd.Series:
        """Returns the row with the highest score: validation accuracy, mean over all replicas."""
        curve = self.curves[variant, setting]
        return curve.loc[curve["mean"].fillna(0).idxmax()]

    def hopeless(self, variant: str, setting: str) -> bool:
        """Returns whether all replicas diverge at every rate. Then none is best."""
        curve = self.curves[variant, setting]
        return bool((curve["diverged"] == curve["replicas"]).all())

    def alike(self, variant: str, setting: str) -> tuple[float, float] | None:
        """Returns the smallest and the largest rate not significantly worse than the best.

        None if that can't be told: with a single replica, or if replicas diverge at the best rate.
        """
        best, curve = self.best(variant, setting), self.curves[variant, setting]
        if best["replicas"] < 2 or best["diverged"]:
            return None
        found = curve["rate"][curve["alike"]]
        return found.min(), found.max()

    def spread(self, variant: str, setting: str) -> str:
        """Formats `alike`: 0.03 to 0.3."""
        found = self.alike(variant, setting)
        return "" if found is None else " to ".join(dict.fromkeys(f"{rate:g}" for rate in found))

    def edge(self, variant: str, setting: str) -> str | None:
        """Returns "smallest" or "largest" if the best rate is the first or the last of those that were tried."""
        rates, best = self.curves[variant, setting]["rate"], self.best(variant, setting)["rate"]
        return {rates.min(): "smallest", rates.max(): "largest"}.get(best) if len(rates) > 1 else None

    def diverging(self, variant: str, setting: str) -> tuple[int, int, float] | None:
        """Returns how many replicas diverge, of how many, from the smallest rate on at which one does; or None."""
        curve = self.curves[variant, setting]
        lost = curve[curve["rate"] >= curve["rate"][curve["diverged"] > 0].min()]
        return (lost["diverged"].sum(), lost["replicas"].sum(), lost["rate"].iloc[0]) if len(lost) else None

    def at_best(self) -> dict[tuple[str, str], str]:
        """Returns {(variant, setting): its run at its best learning rate}."""
        return {key: self.best(*key)["run"] for key in self.curves}

    def at(self, rate: float) -> dict[tuple[str, str], str]:
        """Returns {(variant, setting): its run at one learning rate}, of those that have one."""
        found = {key: curve["run"][curve["rate"] == rate] for key, curve in self.curves.items()}
        return {key: runs.iloc[0] for key, runs in found.items() if len(runs)}


def swept_rates(
    runs: Mapping[str, Mapping[str, Any]], ends: Mapping[str, pd.DataFrame], names: Mapping[str, tuple[str, str]]
) -> LearningRates | None:
    """Returns the sweep as curves over the learning rate; None unless one of them has at least `FEWEST` rates.

    runs: {run: its record}.  ends: {run: values of each replica after the last step}.  names: {run: (variant,
    setting)}, in which everything that varies but the learning rate is named.
    """
    groups: dict[tuple[str, str], dict[str, float]] = {}
    for run, record in runs.items():
        groups.setdefault(names[run], {})[run] = float(record["config"]["optimizer"].get("lr", np.nan))
    counts = [len({*group.values()}) for group in groups.values()]
    if max(counts) < FEWEST or not all(np.isfinite([*group.values()]).all() for group in groups.values()):
        return None
    return LearningRates(
        {
            key: scored(ends, list(group)).assign(rate=group.values()).sort_values("rate", ignore_index=True)
            for key, group in groups.items()
        }
    )
