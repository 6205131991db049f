"""What a sweep measured, as the comparisons with papers need it: last values, curves and differences of replicas."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from initlab.confidence_intervals import mean_ci95
from initlab.tracking.results import Results

LEARNED = 0.5  # validation accuracy from which a network counts as having learned; guessing reaches about 0.1


class Estimate(NamedTuple):
    """A mean over replicas and the half-width of its 95 % t-interval, which is NaN for a single replica."""

    mean: float
    ci95: float

    @property
    def interval(self) -> tuple[float, float]:
        return self.mean - self.ci95, self.mean + self.ci95

    def text(self, digits: int = 2, sign: str = "") -> str:
        """Formats it: 2.21 ± 0.10, or 2.21 alone for a single replica."""
        mean = f"{self.mean:{sign}.{digits}f}"
        return mean if np.isnan(self.ci95) else f"{mean} ± {self.ci95:.{digits}f}"


def estimate(values: Sequence[float] | np.ndarray) -> Estimate:
    """Returns the estimate of values, one per replica (R,)."""
    mean, ci95 = mean_ci95(np.asarray(values, dtype=float))
    return Estimate(mean, np.nan if ci95 is None else ci95)


def check_keys(results: Results, keys: Sequence[str]) -> None:
    """Raises ValueError unless the sweep varied these keys, so that a preset's section is not made of another sweep."""
    swept = sorted({key for run in results.runs.values() for key in run["overrides"]})
    if not set(keys) <= set(swept):
        raise ValueError(f"the sweep varied {', '.join(swept) or 'nothing'}; expected {', '.join(keys)}")


def last(results: Results) -> pd.DataFrame:
    """Returns the rows of the trained networks, one per replica of each run, in the order of the sweep."""
    return results.replicas.dropna(subset=["test/accuracy"])


def error(accuracies: pd.Series) -> np.ndarray:
    """Returns errors in per cent: 100 (1 - accuracy)."""
    return 100 * (1 - accuracies.to_numpy())


def at_best_rate(results: Results) -> dict[tuple[str, str], pd.DataFrame]:
    """Returns {(activation, init): rows of the trained replicas}, at the learning rate that validates best."""
    found = {}
    for (activation, init), rows in last(results).groupby(["activation", "init"], sort=False):
        means = rows.groupby("optimizer.lr", sort=False)["val/accuracy"].mean()
        found[activation, init] = rows[rows["optimizer.lr"] == means.idxmax()]
    return found


def rate(rows: pd.DataFrame, results: Results) -> str:
    """Formats the learning rate of a run, and says if no smaller or no larger one was tried."""
    tried, chosen = results.replicas["optimizer.lr"].astype(float), float(rows["optimizer.lr"].iloc[0])
    end = " (smallest tried)" if chosen == tried.min() else " (largest tried)" if chosen == tried.max() else ""
    return f"{chosen:g}{end}"


def difference(ours: pd.DataFrame, other: pd.DataFrame, metric: str) -> Estimate:
    """Returns the difference of two runs in an accuracy, in points, paired by replica: ours - other."""
    pairs = ours.set_index("replica")[metric] - other.set_index("replica")[metric]
    return estimate(100 * pairs)


def curve(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Returns the mean of a metric over replicas at each step, with its 95 % interval: step, mean, low, high."""
    points = rows.dropna(subset=[metric]).groupby("step")[metric]
    estimates = [(step, *estimate(values)) for step, values in points]
    found = pd.DataFrame(estimates, columns=["step", "mean", "ci95"])
    return found.assign(low=found["mean"] - found["ci95"], high=found["mean"] + found["ci95"])


def setup(results: Results) -> str:
    """Says in one sentence what was trained, from the configurations of the runs."""
    configs = [run["config"] for run in results.runs.values()]
    widths = sorted({width for config in configs for width in config["model"]["hidden"]})
    replicas = sorted({config["replicas"] for config in configs})
    epochs = sorted({config["trainer"]["max_epochs"] for config in configs})
    batch = sorted({config["data"]["batch_size"] for config in configs})
    words = [
        f"{len(configs)} runs of {_listed(replicas)} replicas",
        f"hidden layers of {_listed(widths)} units",
        f"{_listed(epochs)} epoch{'' if epochs == [1] else 's'} in batches of {_listed(batch)} images",
    ]
    return f"Measured: {'; '.join(words)}."


def _listed(values: Sequence[int]) -> str:
    return " or ".join(map(str, values))
