"""A run as the store has it, read back to be run again."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from mlflow.entities import RunTag
from mlflow.exceptions import MlflowException

from initlab import origin, results, store, track


class Recorded(NamedTuple):
    """A run as the store has it. histories: {metric: [(step, value)], in the order of steps}.  replicas: a CSV."""

    run_id: str
    name: str
    status: str
    experiment: str
    experiment_id: str
    tags: dict[str, str]
    config: str
    origin: origin.Origin
    histories: dict[str, list[tuple[int, float]]]
    replicas: str


def read(uri: str, run_id: str) -> Recorded:
    """Reads a run. Raises store.TrackingError if it is not there, or has no record to be replayed."""
    client = store.client(uri)
    run = store.get(client, run_id)

    def text(name: str) -> str:
        with TemporaryDirectory() as folder:
            return Path(client.download_artifacts(run_id, name, folder)).read_text()

    try:
        return Recorded(
            run_id,
            run.info.run_name,
            run.info.status,
            client.get_experiment(run.info.experiment_id).name,
            run.info.experiment_id,
            run.data.tags,
            text(track.CONFIG),
            origin.whole(json.loads(text(track.ORIGIN))),
            {
                name: sorted((point.step, point.value) for point in client.get_metric_history(run_id, name))
                for name in run.data.metrics
            },
            text(results.REPLICAS),
        )
    except (MlflowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        hint = "it is a sweep: replay it with --all" if "sweep" in run.data.tags else reason
        raise store.TrackingError(f"run {run_id} ({run.info.status}) has no record to be replayed: {hint}") from error


def finished_jobs(uri: str, parent_id: str) -> list[str]:
    """The ids of a sweep's finished jobs, in their order. Raises store.TrackingError if it has none."""
    client = store.client(uri)
    parent = store.get(client, parent_id)
    jobs = store.jobs(client, parent.info.experiment_id, parent_id)
    if not jobs:
        raise store.TrackingError(
            f"{parent_id} ({parent.info.run_name}) is no sweep: no finished job is nested under it"
        )
    return [job.info.run_id for job in jobs]


def tag(uri: str, run_id: str, **tags: str) -> None:
    """Sets tags of a run that has ended."""
    store.client(uri).log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])
