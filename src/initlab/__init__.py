"""What weight initialisation does to a neural network, measured over replicas."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from initlab.report.recorded_sweep import RecordedSweep

__all__ = ["load_sweep"]


def load_sweep(sweep: str | Path, tracking_uri: str | None = None) -> RecordedSweep:
    """Loads the results of a sweep: its runs and metrics as DataFrames, and the figures of its report.

    sweep: the folder in which the sweep left its results, or the id of its parent run.  tracking_uri: of MLflow's
    store, for an id; by default MLFLOW_TRACKING_URI, or else mlflow.db in the working directory.
    Raises ValueError for what is neither a folder nor an id, FileNotFoundError for a folder without results, and
    tracking.store.TrackingError, an OSError, if the store can't be read or has no such sweep.
    """
    from initlab.report import recorded_sweep  # imports pandas and torch: `import initlab` alone takes no time

    return recorded_sweep.load_sweep(sweep, tracking_uri)
