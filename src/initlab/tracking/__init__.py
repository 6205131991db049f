"""The record of runs: their folders, the MLflow store, and the results of sweeps."""

import os
from pathlib import Path


def default_uri() -> str:
    """Returns the address of the store in which runs are looked up: MLFLOW_TRACKING_URI, or else mlflow.db here."""
    return os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{Path.cwd()}/mlflow.db")
