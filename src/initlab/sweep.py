"""A sweep: the parent run of its jobs, and what they found, put together."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pandas as pd
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE
from omegaconf import OmegaConf
from safetensors.torch import load_file

from initlab import results, store, track, ui

DIGEST = "results.sha256"  # tag of a sweep
NOTE = 8000  # characters that MLflow takes of a tag


class Job(NamedTuple):
    """A job of a sweep that has ended. reason: if it did not finish.  time: ms since 1970."""

    run_id: str
    name: str
    status: str
    reason: str | None
    time: int
    accuracy: float | None
    ci95: float | None


class Sweep:
    """The parent run of a sweep's jobs; they find it by the sweep's folder, from whichever process they run in."""

    def __init__(
        self,
        *,
        uri: str,
        experiment: str,
        folder: str,
        name: str,
        overrides: Sequence[str] = (),
        resume: bool = False,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Opens the run, or the one that is in the folder already, if it is to be resumed.

        Raises store.TrackingError.
        """
        self.client, self.experiment_id = store.connect(uri, experiment)
        self.jobs: list[Run] = []  # whose results were asked for
        store.bury_the_dead(self.client, self.experiment_id)
        if resume:
            found = self.client.search_runs([self.experiment_id], f'tags.sweep = "{folder}"')
            self.run_id = next(run.info.run_id for run in found if run.info.status != "FINISHED")
            store.reopen(self.client, self.run_id)
        else:
            tags = track.owner() | {"sweep": folder, "overrides": json.dumps(list(overrides))} | dict(tags or {})
            self.run_id = self.client.create_run(self.experiment_id, run_name=name, tags=tags).info.run_id
        self.client.set_experiment_tag(self.experiment_id, *ui.view_of_jobs(self.run_id))

    def results(self) -> results.Results | None:
        """Of all finished jobs, if any. Raises store.TrackingError."""
        with store.asked("the tracking store"):
            self.jobs = store.jobs(self.client, self.experiment_id, self.run_id)
            return _results(self.client, self.jobs)

    def describe(self, lead: str, table: str, digest: str, best: str | None = None) -> None:
        """Sets the description, in Markdown, that MLflow shows with the run, and the digest of the results, by which
        `find` finds it. best: a search's best run, which becomes a tag. Raises store.TrackingError.
        """
        link = f"[Its jobs, side by side]({ui.address_of_jobs(self.experiment_id, self.run_id)})"
        with store.asked("the tracking store"):
            if best is not None:
                run_id = next(job.info.run_id for job in self.jobs if best in (job.info.run_name, _apart(job)))
                self.client.set_tag(self.run_id, "best", best)
                link = f"[The best]({ui.address(self.experiment_id, run_id)}) · {link}"
            text = f"{lead} {link}\n\n{table}"
            self.client.set_tag(self.run_id, DIGEST, digest)
            self.client.set_tag(self.run_id, MLFLOW_RUN_NOTE, text[:NOTE].rpartition("\n")[0])

    def seconds(self) -> dict[str, float]:
        """{run: how long it took}, of the jobs whose results were asked for."""
        return {job.info.run_name: (job.info.end_time - job.info.start_time) / 1000 for job in self.jobs}

    def ended(self, since: int) -> list[Job]:
        """Its jobs that have ended since a time (ms since 1970), the first first. Raises store.TrackingError."""
        query = f"tags.`mlflow.parentRunId` = '{self.run_id}' and attributes.end_time > {since}"
        with store.asked("the tracking store"):
            found = self.client.search_runs([self.experiment_id], query, 1, 50000, ["attributes.end_time ASC"])
        return [
            Job(
                run.info.run_id,
                run.info.run_name,
                run.info.status,
                run.data.tags.get("end.reason"),
                run.info.end_time,
                run.data.metrics.get("test/accuracy"),
                run.data.metrics.get("test/accuracy.ci95"),
            )
            for run in found
            if run.info.status != "RUNNING"
        ]

    def look(self) -> str:
        """How to look at it in a browser: a command, if one is needed, and the addresses of it and of its jobs."""
        uri = self.client.tracking_uri
        served = uri.startswith("http")
        here = uri == f"sqlite:///{Path.cwd()}/mlflow.db"
        command = f"mlflow ui{'' if here else f' --backend-store-uri {store.redact(uri)}'}, then"
        server = store.redact(uri).rstrip("/") if served else "http://127.0.0.1:5000"
        return "\n".join(
            [
                f"to look at it: {'open' if served else command}",
                f"  {server}/{ui.address(self.experiment_id, self.run_id)}",
                f"  {server}/{ui.address_of_jobs(self.experiment_id, self.run_id)} (its jobs, side by side)",
            ]
        )

    def keep(self, folder: Path, names: Sequence[str]) -> None:
        """Copies these files of a folder into the run's artifacts. Raises store.TrackingError."""
        with store.asked("the tracking store"):
            _keep(self.client, self.run_id, folder, names)

    def finish(self, status: str, reason: str = "a job failed") -> None:
        """Ends the run, for this reason if it did not finish, and jobs that did not tell their end.

        Raises store.TrackingError.
        """
        lost = "its sweep has ended, and it did not tell its own end"
        why: str | None = None
        if status != "FINISHED":
            status, why = store.verdict(store.redact(reason))
        with store.asked("the tracking store"):
            store.end_jobs(self.client, self.experiment_id, self.run_id, why if why and status == "KILLED" else lost)
            store.end(self.client, self.run_id, status, why)


def resumable(uri: str, experiment: str, overrides: Sequence[str], run_id: str | None) -> Path | None:
    """The folder of a sweep that can be gone on with: of `run_id`, or of the newest of these overrides that did not
    finish, if there is one. Raises ValueError if `run_id` can't be; store.TrackingError.
    """
    client, experiment_id = store.connect(uri, experiment)
    store.bury_the_dead(client, experiment_id)
    text = json.dumps(list(overrides))
    if run_id is None:
        sweeps = store.interrupted(client, experiment_id, "tags.sweep != ''")
        folders = [Path(one.data.tags["sweep"]) for one in sweeps if one.data.tags.get("overrides") == text]
        return next((folder for folder in folders if folder.is_dir()), None)
    found = store.get(client, run_id)
    folder = store.folder_of(found, "sweep")
    if found.data.tags.get("overrides") != text:
        raise ValueError(f"sweep {run_id} was of {found.data.tags.get('overrides')}; resume needs the same command")
    return folder


def collect(uri: str, run_id: str) -> results.Results:
    """The results of a recorded sweep, by the id of its parent run. Raises store.TrackingError if it has none."""
    client = store.client(uri)
    run = store.get(client, run_id)
    found = _results(client, store.jobs(client, run.info.experiment_id, run_id))
    if found is None:
        raise store.TrackingError(
            f"{run_id} ({run.info.run_name}) is no sweep: it has no finished jobs nested under it"
        )
    return found


def attach(uri: str, folder: Path, names: Sequence[str], *, run_id: str) -> None:
    """Copies files into the artifacts of a run. Raises store.TrackingError."""
    with store.asked(store.place(uri)):
        _keep(store.client(uri), run_id, folder, names)


def find(uri: str, digest: str) -> str | None:
    """The id of the newest sweep whose results have this digest, if there is one. Raises store.TrackingError."""
    client = store.client(uri)
    with store.asked(store.place(uri)):
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        found = client.search_runs(experiments, f"tags.`{DIGEST}` = '{digest}'", max_results=1)
    return found[0].info.run_id if found else None


def _keep(client: MlflowClient, run_id: str, folder: Path, names: Sequence[str]) -> None:
    for name in names:
        within = str(Path(name).parent)
        client.log_artifact(run_id, str(folder / name), None if within == "." else within)


def _apart(job: Run) -> str:
    """The name of a run among others of that name."""
    return f"{job.info.run_name} ({job.info.run_id[:8]})"


def _results(client: MlflowClient, jobs: Sequence[Run]) -> results.Results | None:
    """The tables of these jobs, one under the other, with name and overrides as columns; the rest of each."""
    # A job that was run twice counts once. Others may have the same name, but have another configuration.
    newest = {(job.info.run_name, job.data.tags["config.sha256"]): job for job in jobs}
    twice = Counter(name for name, _ in newest)
    tables, runs, tensors = [], {}, {}
    for (name, _), job in newest.items():
        name = name if twice[name] == 1 else _apart(job)
        overrides = json.loads(job.data.tags["overrides"])
        swept = dict(item.lstrip("+~").partition("=")[::2] for item in overrides)
        with TemporaryDirectory() as folder:
            # By its address: by the run's id, MLflow would ask for the run and its models before each of the files.
            table, tensor, config, theory = (
                download_artifacts(f"{job.info.artifact_uri}/{file}", dst_path=folder, tracking_uri=client.tracking_uri)
                for file in (results.REPLICAS, results.TENSORS, track.CONFIG, track.THEORY)
            )
            values = pd.read_csv(table)
            tensors[name] = load_file(tensor)
            runs[name] = {
                "overrides": swept,
                "config": OmegaConf.to_container(OmegaConf.load(config)),
                "theory": json.loads(Path(theory).read_text()),
            }
        tables.append(pd.concat([pd.DataFrame({"run": name} | swept, index=values.index), values], axis=1))
    return results.Results(pd.concat(tables, ignore_index=True), runs, tensors) if tables else None
