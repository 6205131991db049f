"""A recorded sweep in Python: its runs, metrics and tables as DataFrames, and the report's figures one by one."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from initlab import report
from initlab.report import figures, tables
from initlab.tracking import default_uri, results
from initlab.tracking.results import Results


@dataclass(frozen=True)
class RecordedSweep:
    """The results of a sweep, as `initlab.load_sweep` returns them. Its tables may be changed: figures stay the same.

    results: what the sweep left in its folder.
    """

    results: Results = field(repr=False)

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One row per run: `run`, its name; the swept values; and the other values of its configuration by their keys.

        For example `optimizer.lr`, `activation.shift`, `replicas`.
        """
        swept = self.results.replicas.drop_duplicates("run")[["run", *tables.swept_keys(self.results.replicas)]]
        records = self.results.runs
        params = pd.json_normalize([record["config"] for record in records.values()]).set_axis([*records])
        return swept.join(params.drop(columns=[*swept], errors="ignore"), on="run").reset_index(drop=True)

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """Every value of every replica: one row per (run, step, replica), with one column per metric.

        The swept values are between `run` and `step`. What was not measured at a step is NaN.
        """
        return self.results.replicas.copy()

    @cached_property
    def summary(self) -> pd.DataFrame:
        """Final accuracies and losses, one row per run, best first: see `tables.comparison`."""
        return tables.comparison(self.results.replicas).reset_index()

    @cached_property
    def layers(self) -> pd.DataFrame:
        """Statistics of the layers, one row per (run, step, layer): see `tables.by_layer`."""
        return tables.by_layer(self.results.replicas)

    @property
    def figures(self) -> list[str]:
        """Names of the report's figures that there is data for."""
        return list(self._figures)

    def figure(self, name: str) -> Any:
        """Draws a figure of the report, which a notebook shows. Raises ValueError for a name not in `figures`."""
        if name not in self._figures:
            raise ValueError(f"there is no figure {name!r}; expected one of {', '.join(self.figures)}")
        return self._figures[name]()

    @cached_property
    def _figures(self) -> dict[str, Callable[[], Any]]:
        return figures.figures(report.lay_out(self.results).best(report.LONG))


def load_sweep(sweep: str | Path, tracking_uri: str | None = None) -> RecordedSweep:
    """Loads a sweep: see `initlab.load_sweep`."""
    with TemporaryDirectory() as folder:
        found, _ = load_results(str(sweep), Path(folder), uri=tracking_uri or default_uri())
    return RecordedSweep(found)


def load_results(sweep: str, within: Path, *, uri: str) -> tuple[Results, Path]:
    """Returns the results of a sweep, and the folder that holds them.

    sweep: a sweep's folder, or the id of its parent run.  within: where results from the tracking store get a folder,
    named by the id.  uri: of the tracking store.
    Raises ValueError if it is neither, FileNotFoundError if the folder holds no results, and store.TrackingError if
    the store has no such sweep.
    """
    folder = Path(sweep)
    if not folder.is_dir():
        if not re.fullmatch("[0-9a-f]{32}", sweep):
            raise ValueError(f"{sweep} is neither a folder nor the id of a run")
        from initlab.tracking import parent_run

        folder = within / sweep
        results.save(parent_run.load_results(uri, sweep), folder)
    return results.load(folder), folder
