"""Reads a run back from the store, so that it can be run again."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from mlflow.entities import RunTag
from mlflow.exceptions import MlflowException

from initlab.tracking import artifacts, provenance, store
from initlab.tracking.provenance import Provenance


class RecordedRun(NamedTuple):
    """A run as it is in the store.

    config: YAML.  histories: {metric: [(step, value)]}, in order of steps.  replicas: CSV.
    """

    run_id: str
    name: str
    status: str
    experiment: str
    experiment_id: str
    tags: dict[str, str]
    config: str
    provenance: Provenance
    histories: dict[str, list[tuple[int, float]]]
    replicas: str


def read_run(uri: str, run_id: str) -> RecordedRun:
    """Reads a run. Raises store.TrackingError if it does not exist or lacks what a replay needs."""
    client = store.connect_existing(uri)
    run = store.get_run(client, run_id)

    def text(name: str) -> str:
        with TemporaryDirectory() as folder:
            return Path(client.download_artifacts(run_id, name, folder)).read_text(encoding="utf-8")

    try:
        return RecordedRun(
            run_id,
            run.info.run_name,
            run.info.status,
            client.get_experiment(run.info.experiment_id).name,
            run.info.experiment_id,
            run.data.tags,
            text(artifacts.CONFIG),
            provenance.validated(json.loads(text(artifacts.PROVENANCE))),
            {
                name: sorted((point.step, point.value) for point in client.get_metric_history(run_id, name))
                for name in run.data.metrics
            },
            text(artifacts.REPLICAS),
        )
    except (MlflowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        hint = "it is a sweep: replay it with --all" if "sweep" in run.data.tags else reason
        raise store.TrackingError(f"run {run_id} ({run.info.status}) has no record to be replayed: {hint}") from error


def finished_jobs(uri: str, parent_id: str) -> list[str]:
    """Returns the ids of a sweep's finished jobs, in order. Raises store.TrackingError if it has none."""
    client = store.connect_existing(uri)
    parent = store.get_run(client, parent_id)
    jobs = store.finished_jobs(client, parent.info.experiment_id, parent_id)
    if not jobs:
        raise store.TrackingError(
            f"{parent_id} ({parent.info.run_name}) is not a sweep: no finished job is nested under it"
        )
    return [job.run.info.run_id for job in jobs]


def set_tags(uri: str, run_id: str, **tags: str) -> None:
    """Sets tags of a run that has ended. Raises store.TrackingError if the store does not answer."""
    store.connect_existing(uri).log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])
