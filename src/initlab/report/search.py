"""A sweep over numbers, tried one after the other in search of the best, and what can be said of all its runs."""

from collections.abc import Iterator, Mapping, Sequence
from math import isnan
from typing import NamedTuple

import numpy as np
import pandas as pd

from initlab.confidence_intervals import mean_ci95
from initlab.report.tables import last_step
from initlab.tracking.results import Results

SPACE = "\N{NO-BREAK SPACE}"
FEWEST = 5  # runs that a sweep must have to be shown as a search
SHOWN = 8  # best runs of a search that are shown one by one, beside the first
SCORE = "val/accuracy"  # what a search maximises: no choice may depend on the test images


class Search(NamedTuple):
    """runs: one row per run, in their order: `run`, the swept keys, mean and ci95 of the score, `diverged`, `alike`.

    mean, ci95: over all replicas, after the last step. One that has diverged counts with what it guesses, so that a run
    that may diverge ranks low.  diverged: how many of the run's `replicas` have.  alike: whether the run is not
    significantly different from the best: no replica of either has diverged, and the paired interval of their
    difference is known and contains zero.
    """

    keys: list[str]
    runs: pd.DataFrame

    @property
    def best(self) -> pd.Series:
        """The run with the highest mean score."""
        return self.runs.loc[self.runs["mean"].idxmax()]

    @property
    def first(self) -> pd.Series:
        """The run at which the search began, with the values of the configuration."""
        return self.runs.iloc[0]

    def label(self, run: str) -> str:
        """Formats a run's numbers: shift=0.41, gain=2.5. Keys are shortened to their last words if these are unique."""
        words = [key.rpartition(".")[2] for key in self.keys]
        names = words if len({*words}) == len(words) else self.keys
        row = self.runs.set_index("run").loc[run]
        return ", ".join(f"{name}={row[key]:g}" for name, key in zip(names, self.keys, strict=True))

    def shown(self) -> list[str]:
        """Returns the first run and the best ones, in their order."""
        best = set(self.runs.nlargest(SHOWN, "mean")["run"])
        return [run for number, run in enumerate(self.runs["run"]) if number == 0 or run in best]


def searched(results: Results, varied: list[str]) -> Search | None:
    """Returns the sweep as a search, if everything that varies in it is a number other than the seed."""
    values = {run: [number(record["overrides"].get(key)) for key in varied] for run, record in results.runs.items()}
    if len(values) < FEWEST or not varied or "seed" in varied or not np.isfinite([*values.values()]).all():
        return None
    numbers = pd.DataFrame(values.values(), columns=varied)
    found = scored(dict(iter(last_step(results.replicas).groupby("run", sort=False))), list(values))
    return Search(varied, pd.concat([found[["run"]], numbers, found.drop(columns="run")], axis=1))


def scored(ends: Mapping[str, pd.DataFrame], runs: Sequence[str]) -> pd.DataFrame:
    """Returns one row per run: columns run, mean, ci95, diverged, replicas, alike, as `Search.runs` has them.

    ends: {run: values of each replica after the last step}.
    """
    scores = {run: ends[run][SCORE].to_numpy() for run in runs}
    diverged = {run: int((~np.isfinite(ends[run]["val/loss"])).sum()) for run in runs}
    best = max(runs, key=lambda run: scores[run].mean())
    rows = []
    for run in runs:
        mean, ci95 = mean_ci95(scores[run])
        alike = run == best or (not diverged[run] and not diverged[best] and _alike(scores[run], scores[best]))
        rows.append((run, mean, np.nan if ci95 is None else ci95, diverged[run], len(scores[run]), alike))
    return pd.DataFrame(rows, columns=["run", "mean", "ci95", "diverged", "replicas", "alike"])


def told(search: Search) -> Iterator[str]:
    """Yields what a search found, and how much of that may be chance."""
    best, first, runs = search.best, search.first, search.runs
    ranges = " and ".join(f"{key} from {runs[key].min():g} to {runs[key].max():g}" for key in search.keys)
    yield f"{len(runs)} trials, {ranges}."
    beside = f"; the first, {search.label(first['run'])}, has {score(first)}" if best["run"] != first["run"] else ""
    yield f"Best by validation accuracy is {search.label(best['run'])} with {score(best)}{beside}."
    alike = runs[runs["alike"]]
    if len(alike) > 1:
        spans = " and ".join(f"{key} from {alike[key].min():g} to {alike[key].max():g}" for key in search.keys)
        yield f"Replica by replica {len(alike) - 1} of the others do not differ significantly from it, {spans}."
    yield "The best of many is partly luck: a sweep with another seed tells what it is worth."


def score(run: pd.Series) -> str:
    mean, ci95 = 100 * run["mean"], 100 * run["ci95"]
    text = f"{mean:.2f}" + ("" if isnan(ci95) else f"{SPACE}±{SPACE}{ci95:.2f}") + f"{SPACE}%"
    return f"{text} (with {run['diverged']} of {run['replicas']} diverged)" if run["diverged"] else text


def _alike(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Returns whether the paired interval of the difference contains zero."""
    if len(ours) != len(theirs):
        return False
    mean, ci95 = mean_ci95(ours - theirs)
    return ci95 is not None and abs(mean) <= ci95


def number(text: str | None) -> float:
    """Returns the number that a text is, or NaN."""
    try:
        return float(text) if text is not None else np.nan
    except ValueError:
        return np.nan
