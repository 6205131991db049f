"""The parent run of a sweep, and the combined results of its jobs."""

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import Metric, Param, Run
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE
from omegaconf import OmegaConf
from safetensors.torch import load as load_tensors

from initlab.tracking import artifacts, store, ui
from initlab.tracking import resume as resume_runs
from initlab.tracking.logged_model import REACHED
from initlab.tracking.results import Results
from initlab.tracking.run_logger import IDLE, owner_tags
from initlab.tracking.store import SweepJob

DIGEST = "results.sha256"  # tag of a sweep
NOTE = 8000  # characters that MLflow allows in a tag


class EndedJob(NamedTuple):
    """A job of a sweep that has ended. reason: why, if it did not finish.  time: when, ms since 1970."""

    run_id: str
    name: str
    status: str
    reason: str | None
    time: int
    accuracy: float | None
    ci95: float | None


class ParentRun:
    """The parent run of a sweep. Jobs find it by the sweep's folder, in whichever process they run."""

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
        ui_port: int | None = None,
    ) -> None:
        """Creates the run or, with `resume`, reopens the unfinished run of this folder.

        ui_port: of `mlflow ui`, for the addresses that are printed.  Raises store.TrackingError.
        """
        self.client, self.experiment_id = store.connect(uri, experiment)
        self.ui_port = ui_port
        self.jobs: list[SweepJob] = []  # whose results were collected
        resume_runs.mark_orphaned_runs_killed(self.client, self.experiment_id)
        if resume:
            query = "attributes.status != 'FINISHED'"
            unfinished = store.tagged_runs(self.client, self.experiment_id, "sweep", folder, query)
            if not unfinished:
                raise store.TrackingError(f"the store has no unfinished sweep in {folder}: start it without resume")
            self.run_id = unfinished[0].info.run_id
            resume_runs.reopen_run(self.client, self.run_id)
        else:
            tags = owner_tags() | {"sweep": folder, "overrides": json.dumps(list(overrides))} | dict(tags or {})
            self.run_id = self.client.create_run(self.experiment_id, run_name=name, tags=tags).info.run_id
        self.client.set_experiment_tag(self.experiment_id, *ui.view_of_jobs(self.run_id))

    def collect_results(self) -> Results | None:
        """Returns the results of all finished jobs, if there are any. Raises store.TrackingError."""
        with store.tracking_errors("the tracking store"):
            self.jobs = store.finished_jobs(self.client, self.experiment_id, self.run_id)
            return _combined(self.client, self.jobs)

    def log_summary(self, found: Results, *, finished: bool) -> None:
        """Logs what MLflow can sort and search sweeps by.

        Metrics are the best job's results, by validation accuracy, and the numbers of jobs, of their replicas, and of
        those that have diverged. Params are what all jobs share; since a param can't be changed, only a sweep that has
        finished has them. Raises store.TrackingError.
        """
        jobs = [job.run for job in _by_name(self.jobs).values()]
        table = found.replicas
        last = table[table["step"] == table.groupby("run")["step"].transform("max")]
        values = {
            "jobs": len(jobs),
            "replicas": len(last),
            "diverged": int((~np.isfinite(last["val/loss"])).sum()),
        }
        best = max(jobs, key=lambda job: np.nan_to_num(job.data.metrics.get("val/accuracy", 0.0)))
        reached = {name: best.data.metrics.get(name) for result in REACHED for name in (result, f"{result}.ci95")}
        values |= {name: value for name, value in reached.items() if value is not None}
        shared = set.intersection(*(set(job.data.params.items()) for job in jobs)) if finished else set()
        params = [Param(key, value) for key, value in sorted(shared)]
        now = int(1000 * time.time())
        with store.tracking_errors("the tracking store"):
            self.client.log_batch(self.run_id, [Metric(name, value, now, 0) for name, value in values.items()])
            for start in range(0, len(params), store.PARAMS):
                self.client.log_batch(self.run_id, params=params[start : start + store.PARAMS])

    def set_description(self, lead: str, table: str, digest: str, best: str | None = None) -> None:
        """Sets the Markdown description that MLflow shows, and the digest by which `find_parent` finds the run.

        best: the name of a search's best run, which becomes a tag.  Raises store.TrackingError.
        """
        link = f"[Its jobs, side by side]({ui.address_of_jobs(self.experiment_id, self.run_id)})"
        with store.tracking_errors("the tracking store"):
            if best is not None:
                run_id = _by_name(self.jobs)[best].run.info.run_id
                self.client.set_tag(self.run_id, "best", best)
                link = f"[The best]({ui.address(self.experiment_id, run_id)}) · {link}"
            text = f"{lead} {link}\n\n{table}"
            self.client.set_tag(self.run_id, DIGEST, digest)
            self.client.set_tag(self.run_id, MLFLOW_RUN_NOTE, text[:NOTE].rpartition("\n")[0])

    def job_seconds(self) -> dict[str, float | None]:
        """Returns {run: seconds it took, without those it was idle}, for the jobs whose results were collected.

        None for a run that was reused.
        """
        return {name: None if job.reused else _seconds(job.run) for name, job in _by_name(self.jobs).items()}

    def ended_jobs(self, since: int) -> list[EndedJob]:
        """Returns the jobs that have ended since a time (ms since 1970), ordered by end. Raises store.TrackingError."""
        query = f"tags.`mlflow.parentRunId` = '{self.run_id}' and attributes.end_time > {since}"
        with store.tracking_errors("the tracking store"):
            found = store.search_runs(self.client, self.experiment_id, query, "attributes.end_time ASC")
        return [
            EndedJob(
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

    def viewing_instructions(self, cwd: Path | None = None) -> str:
        """Returns how to view the sweep in a browser: a command, if needed, and the addresses of it and of its jobs.

        cwd: where the command will be typed; by default, the working directory.
        Without `ui_port`, the addresses are those of MLflow's own port, or of the next one that is free.
        """
        uri = self.client.tracking_uri
        if uri.startswith("http"):
            how, server = "open", store.redact(uri).rstrip("/")
        else:
            port, answers = ui.local_port(self.run_id, self.ui_port)
            here = uri == f"sqlite:///{cwd or Path.cwd()}/mlflow.db"
            options = "" if here else f' --backend-store-uri "{store.redact(uri)}"'
            options += "" if port == ui.PORTS[0] else f" --port {port}"
            how, server = "open" if answers else f"mlflow ui{options}, then", f"http://127.0.0.1:{port}"
        return "\n".join(
            [
                f"to look at it: {how}",
                f"  {server}/{ui.address(self.experiment_id, self.run_id)}",
                f"  {server}/{ui.address_of_jobs(self.experiment_id, self.run_id)} (its jobs, side by side)",
            ]
        )

    def log_files(self, folder: Path, names: Sequence[str]) -> None:
        """Logs files of a folder as artifacts. Raises store.TrackingError."""
        with store.tracking_errors("the tracking store"):
            _log_files(self.client, self.run_id, folder, names)

    def end(self, status: str, reason: str = "a job failed") -> None:
        """Ends the run, with `reason` if it did not finish, and marks jobs KILLED that did not record their end.

        Raises store.TrackingError.
        """
        lost = "its sweep has ended, and it did not record its own end"
        why: str | None = None
        if status != "FINISHED":
            status, why = store.end_status(store.redact(reason))
        with store.tracking_errors("the tracking store"):
            store.mark_running_jobs_killed(
                self.client, self.experiment_id, self.run_id, why if why and status == "KILLED" else lost
            )
            store.end_run(self.client, self.run_id, status, why)


def load_results(uri: str, run_id: str) -> Results:
    """Returns the results of the recorded sweep with this parent run. Raises store.TrackingError if it has none."""
    client = store.connect_existing(uri)
    run = store.get_run(client, run_id)
    found = _combined(client, store.finished_jobs(client, run.info.experiment_id, run_id))
    if found is None:
        raise store.TrackingError(
            f"{run_id} ({run.info.run_name}) is not a sweep: it has no finished jobs nested under it"
        )
    return found


def log_files(uri: str, folder: Path, names: Sequence[str], *, run_id: str) -> None:
    """Logs files of a folder as artifacts of a run. Raises store.TrackingError."""
    with store.tracking_errors(store.location(uri)):
        _log_files(store.connect_existing(uri), run_id, folder, names)


def find_parent(uri: str, digest: str) -> str | None:
    """Returns the id of the newest sweep whose results have this digest, if any. Raises store.TrackingError."""
    client = store.connect_existing(uri)
    with store.tracking_errors(store.location(uri)):
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        found = client.search_runs(experiments, f"tags.`{DIGEST}` = '{digest}'", max_results=1)
    return found[0].info.run_id if found else None


def _log_files(client: MlflowClient, run_id: str, folder: Path, names: Sequence[str]) -> None:
    for name in names:
        within = str(Path(name).parent)
        client.log_artifact(run_id, str(folder / name), None if within == "." else within)


def _seconds(run: Run) -> float:
    return (run.info.end_time - run.info.start_time - int(run.data.tags.get(IDLE, 0))) / 1000


def _by_name(jobs: Sequence[SweepJob]) -> dict[str, SweepJob]:
    """{name: the newest run of a job}. Jobs with the same name but different configurations get their id added."""
    newest = {(job.name, job.run.data.tags["config.sha256"]): job for job in jobs}
    count = Counter(name for name, _ in newest)
    return {
        name if count[name] == 1 else f"{name} ({job.run.info.run_id[:8]})": job for (name, _), job in newest.items()
    }


def _combined(client: MlflowClient, jobs: Sequence[SweepJob]) -> Results | None:
    """Combines the results of jobs: their tables one below the other, with name and overrides as columns."""
    tables, runs, tensors = [], {}, {}
    for name, job in _by_name(jobs).items():
        swept = dict(item.lstrip("+~").partition("=")[::2] for item in job.overrides)
        with TemporaryDirectory() as folder:
            # By artifact URI: given a run id, MLflow would fetch the run and its models before each file.
            table, tensor, config, theory = (
                download_artifacts(
                    f"{job.run.info.artifact_uri}/{file}", dst_path=folder, tracking_uri=client.tracking_uri
                )
                for file in (artifacts.REPLICAS, artifacts.TENSORS, artifacts.CONFIG, artifacts.THEORY)
            )
            values = pd.read_csv(table)
            tensors[name] = load_tensors(Path(tensor).read_bytes())
            runs[name] = {
                "overrides": swept,
                "config": OmegaConf.to_container(OmegaConf.load(config)),
                "theory": json.loads(Path(theory).read_text(encoding="utf-8")),
            }
        tables.append(pd.concat([pd.DataFrame({"run": name} | swept, index=values.index), values], axis=1))
    return Results(pd.concat(tables, ignore_index=True), runs, tensors) if tables else None
