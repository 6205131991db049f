"""MLflow's room: a store that is there before anything starts, runs that end with the right status, sweeps."""

import hashlib
import io
import json
import logging
import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import requests
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from omegaconf import OmegaConf
from sqlalchemy.exc import SQLAlchemyError

from initlab import process
from initlab.stats import mean_ci95

for noisy in ("mlflow.store.db.utils", "alembic"):  # the making of a store's tables is no news
    logging.getLogger(noisy).setLevel(logging.WARNING)

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

BATCH = 1000  # MLflow's limit on the metrics of one log_batch; 100 on its params
PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
TABLE = "replicas.csv"
ABOUT = {
    "mlflow.note.content": "What weight initialisation does to a neural network. Each run trains several replicas: a "
    "metric is their mean, `<name>.ci95` beside it the half-width of its 95 % interval. A sweep is a run with its jobs "
    "nested under it.",
    "mlflow.experimentKind": "custom_model_development",  # the UI opens on runs and charts
}


class TrackingError(OSError):
    """The tracking store does not answer, or can't be written."""


def connect(uri: str, experiment: str) -> tuple[MlflowClient, str]:
    """A client of the store at `uri`, and the id of the experiment, both made if they are not there yet.

    A store in a file is made under a lock, so that parallel first starts are safe, and in WAL mode, which lets runs
    write side by side. Raises TrackingError within seconds if the store does not answer.
    """
    file = Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None
    _probe(uri, file)
    location = None if file is None else (file.absolute().parent / "mlruns").as_uri()
    try:
        with FileLock(f"{file}.lock", timeout=60) if file else nullcontext():
            client = MlflowClient(uri)
            found = client.get_experiment_by_name(experiment)
            if found and found.lifecycle_stage == "deleted":
                raise TrackingError(
                    f"tracking.experiment: {experiment} is deleted; bring it back with `mlflow experiments restore "
                    f"--experiment-id {found.experiment_id}`, or name another"
                )
            if file and not found:
                with closing(sqlite3.connect(file)) as database:
                    database.execute("PRAGMA journal_mode=WAL")
            try:
                return client, found.experiment_id if found else client.create_experiment(experiment, location, ABOUT)
            except MlflowException as error:  # another process was faster: only where there is no lock
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                return client, client.get_experiment_by_name(experiment).experiment_id
    except TrackingError:
        raise
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
        place = file or urlsplit(uri).hostname  # an address may hold a password
        raise TrackingError(
            f"tracking.uri: the store at {place} can't be used: {str(error).splitlines()[0]}"
        ) from error


def _probe(uri: str, file: Path | None) -> None:
    """Fails fast: MLflow itself tries again for minutes. Raises TrackingError."""
    if file is not None:
        try:
            file.open("ab").close()
        except OSError as error:
            raise TrackingError(f"tracking.uri: {file} can't be written: {error.strerror}") from error
        return
    parts = urlsplit(uri)
    scheme = parts.scheme.split("+")[0]
    if scheme not in PORTS or not parts.hostname:
        raise TrackingError(
            f"tracking.uri begins with {uri.partition(':')[0]!r}; expected sqlite:///FILE, http(s)://HOST, "
            "postgresql://HOST/NAME or another database that MLflow knows"
        )
    address = f"{parts.hostname}:{parts.port or PORTS[scheme]}"
    try:
        if scheme in ("http", "https"):
            requests.get(f"{uri.rstrip('/')}/health", timeout=5).raise_for_status()
        else:
            socket.create_connection((parts.hostname, parts.port or PORTS[scheme]), timeout=5).close()
    except OSError as error:  # requests' errors are OSErrors
        raise TrackingError(f"tracking.uri: no MLflow store answers at {address} ({type(error).__name__})") from error


class Run:
    """One run of the store, while it goes on. Metrics are means over replicas, `<name>.ci95` their 95 % half-width."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self.client, self.run_id = client, run_id
        self.history: dict[int, dict[str, np.ndarray]] = {}  # {step: {metric: value of each replica (R,)}}

    def log(self, values: Mapping[int, Mapping[str, np.ndarray]]) -> None:
        """Logs {step: {metric: value of each replica (R,)}}, in as few writes as MLflow allows."""
        now = int(1000 * time.time())
        metrics = []
        for step, named in values.items():
            self.history.setdefault(step, {}).update(named)
            for name, replicas in named.items():
                mean, ci95 = mean_ci95(replicas)
                metrics.append(Metric(name, mean, now, step))
                if ci95 is not None:
                    metrics.append(Metric(f"{name}.ci95", ci95, now, step))
        for start in range(0, len(metrics), BATCH):
            self.client.log_batch(self.run_id, metrics=metrics[start : start + BATCH])

    def tag(self, **tags: str) -> None:
        self.client.log_batch(self.run_id, tags=[RunTag(name, value) for name, value in tags.items()])

    def artifact(self, path: Path) -> None:
        """Copies a file, or a folder under its own name, into the run's artifacts."""
        if path.is_dir():
            self.client.log_artifacts(self.run_id, str(path), path.name)
        else:
            self.client.log_artifact(self.run_id, str(path))

    def replicas(self) -> pd.DataFrame:
        """Every value of every replica: one row a (step, replica), one column a metric; empty where not measured."""
        tables = [
            pd.DataFrame({"step": step, "replica": range(len(next(iter(named.values())))), **named})
            for step, named in sorted(self.history.items())
        ]
        return pd.concat(tables, ignore_index=True)


@contextmanager
def run(
    *, uri: str, experiment: str, name: str, config: dict[str, Any], sweep: str | None, overrides: list[str], data: dict
) -> Iterator[Run]:
    """A run of the store: FINISHED if the body returns, KILLED if a signal ends it, else FAILED; the reason is a tag.

    config: resolved, plain; becomes the run's params (flat) and its config.yaml.  sweep: the sweep's folder, if it is
    part of one; its parent is found by that.  data: name and facts of the data set, noted as the run's input.
    """
    with process.exit_on_signals():
        client, experiment_id = connect(uri, experiment)
        bury_the_dead(client, experiment_id)
        text = OmegaConf.to_yaml(config)
        tags = _origin() | {
            "seed": str(config["seed"]),
            "config.sha256": hashlib.sha256(text.encode()).hexdigest(),
            "overrides": json.dumps(overrides),
        }
        if sweep is not None:
            tags["mlflow.parentRunId"] = _parent(client, experiment_id, sweep)
        run_id = client.create_run(experiment_id, run_name=name, tags=tags).info.run_id
        current = Run(client, run_id)
        try:
            params = [Param(key, value) for key, value in _flat(config)]
            for start in range(0, len(params), 100):
                client.log_batch(run_id, params=params[start : start + 100])
            client.log_text(run_id, text, "config.yaml")
            client.log_inputs(run_id, datasets=[_dataset(data, tags.get("data.md5", ""))])
            yield current
            client.log_text(run_id, _csv(current.replicas()), TABLE)
        except BaseException as error:
            _end(client, run_id, "FAILED", reason=f"{type(error).__name__}: {error}")
            raise
        _end(client, run_id, "FINISHED")


class Sweep:
    """The parent run of a sweep's jobs; they find it by the sweep's folder, from whichever process they run in."""

    def __init__(self, *, uri: str, experiment: str, folder: str, name: str) -> None:
        """Opens the run. Raises TrackingError."""
        self.client, self.experiment_id = connect(uri, experiment)
        bury_the_dead(self.client, self.experiment_id)
        tags = _origin() | {"sweep": folder}
        self.run_id = self.client.create_run(self.experiment_id, run_name=name, tags=tags).info.run_id

    def replicas(self) -> pd.DataFrame:
        """The tables of all finished jobs, if any, one under the other; name and overrides are columns."""
        jobs = self.client.search_runs(
            [self.experiment_id],
            f"tags.`mlflow.parentRunId` = '{self.run_id}' and attributes.status = 'FINISHED'",
            order_by=["attributes.start_time ASC"],
            max_results=50000,
        )
        tables = []
        for job in jobs:
            table = pd.read_csv(self.client.download_artifacts(job.info.run_id, TABLE))
            overrides = dict(item.lstrip("+~").partition("=")[::2] for item in json.loads(job.data.tags["overrides"]))
            columns = {"run": job.info.run_name} | overrides
            tables.append(pd.concat([pd.DataFrame(columns, index=table.index), table], axis=1))
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()

    def finish(self, status: str, tables: Mapping[str, str]) -> None:
        """Stores {file name: text} with the run, and ends it."""
        for name, text in tables.items():
            self.client.log_text(self.run_id, text, name)
        _end(self.client, self.run_id, status, reason="a job failed" if status == "FAILED" else None)


def bury_the_dead(client: MlflowClient, experiment_id: str) -> None:
    """Marks runs KILLED that read RUNNING, but whose process on this host is gone: nothing else could (kill -9)."""
    for lost in client.search_runs([experiment_id], "attributes.status = 'RUNNING'", max_results=50000):
        owner = lost.data.tags.get("owner")
        if owner is None or not process.is_gone(owner):
            continue
        if client.get_run(lost.info.run_id).info.status == "RUNNING":  # it has not ended since it was listed
            _end(client, lost.info.run_id, "KILLED", reason="its process is gone")


def _end(client: MlflowClient, run_id: str, status: str, reason: str | None = None) -> None:
    if status == "FAILED" and process.ended_by() is not None:
        status, reason = "KILLED", process.ended_by()
    if reason is not None:
        client.set_tag(run_id, "end.reason", reason[:500])
    client.set_terminated(run_id, status)


def _parent(client: MlflowClient, experiment_id: str, folder: str) -> str:
    found = client.search_runs([experiment_id], f"tags.sweep = \"{folder}\" and attributes.status = 'RUNNING'")
    if not found:
        raise TrackingError(f"the sweep in {folder} has no running parent in the tracking store")
    return found[0].info.run_id


def _origin() -> dict[str, str]:
    """Where a run comes from: code, data, machine; what can't be known is left out."""
    tags = {
        "owner": process.owner(),
        "mlflow.user": process.user(),
        "mlflow.source.name": Path(sys.argv[0]).name,
        "mlflow.source.type": "LOCAL",
    }
    git = _git("rev-parse", "HEAD")
    if git is not None:
        dirty = bool(_git("status", "--porcelain"))
        tags |= {"git.commit": git, "mlflow.source.git.commit": git, "git.dirty": str(dirty)}
    if Path("data.dvc").is_file():
        tags["data.md5"] = OmegaConf.load("data.dvc").outs[0].md5
    if Path("dvc.lock").is_file():
        tags["dvc.lock.md5"] = hashlib.md5(Path("dvc.lock").read_bytes(), usedforsecurity=False).hexdigest()
    return tags


def _git(*arguments: str) -> str | None:
    try:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _dataset(data: dict, digest: str) -> DatasetInput:
    """The data set as MLflow's UI shows it: name, digest, the images of each split."""
    profile = {name: fact["images"] for name, fact in data["facts"]["splits"].items()}
    entity = Dataset(
        name=data["name"],
        digest=digest.removesuffix(".dir") or "unknown",
        source_type="local",
        source=json.dumps({"uri": "data.dvc"}),
        profile=json.dumps(profile | {key: data["facts"][key] for key in ("mean", "std", "inputs", "classes")}),
    )
    return DatasetInput(entity, [InputTag("mlflow.data.context", "training")])


def _flat(config: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    """{"init": {"scale": 1}} -> ("init.scale", "1"); items of a list by their number."""
    if isinstance(config, dict | list) and config:
        for key, value in config.items() if isinstance(config, dict) else enumerate(config):
            yield from _flat(value, f"{prefix}{key}.")
    else:
        yield prefix[:-1], json.dumps(config) if not isinstance(config, str) else config


def _csv(table: pd.DataFrame) -> str:
    buffer = io.StringIO()
    table.to_csv(buffer, index=False)
    return buffer.getvalue()
