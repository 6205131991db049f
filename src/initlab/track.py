"""What is recorded: a run with its metrics, params, artifacts and provenance, and a sweep as the parent of its jobs."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from torch import Tensor

from initlab import process, results, store
from initlab.stats import mean_ci95

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

BATCH = 1000  # MLflow's limit on the metrics of one log_batch; 100 on its params
CONFIG, THEORY = "config.yaml", "theory.json"  # artifacts of a run, beside those that results.py names
DIGEST = "results.sha256"  # tag of a sweep


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
        """Sets tags of the run."""
        self.client.log_batch(self.run_id, tags=[RunTag(name, value) for name, value in tags.items()])

    def artifacts(self, folder: Path) -> None:
        """Copies a folder, under its own name, into the run's artifacts."""
        self.client.log_artifacts(self.run_id, str(folder), folder.name)

    def evidence(self, theory: Mapping[str, float], tensors: Mapping[str, Tensor]) -> None:
        """Keeps with the run what theory expected of it, and what pictures of it are made of."""
        self.client.log_dict(self.run_id, dict(theory), THEORY)
        with TemporaryDirectory() as folder:
            save_file(dict(tensors), Path(folder, results.TENSORS))
            self.client.log_artifact(self.run_id, str(Path(folder, results.TENSORS)))

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
        client, experiment_id = store.connect(uri, experiment)
        store.bury_the_dead(client, experiment_id)
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
            client.log_text(run_id, text, CONFIG)
            client.log_inputs(run_id, datasets=[_dataset(data, tags.get("data.md5", ""))])
            yield current
            client.log_text(run_id, current.replicas().to_csv(index=False), results.REPLICAS)
        except BaseException as error:
            store.end(client, run_id, "FAILED", reason=f"{type(error).__name__}: {error}")
            raise
        store.end(client, run_id, "FINISHED")


class Sweep:
    """The parent run of a sweep's jobs; they find it by the sweep's folder, from whichever process they run in."""

    def __init__(self, *, uri: str, experiment: str, folder: str, name: str) -> None:
        """Opens the run. Raises store.TrackingError."""
        self.client, self.experiment_id = store.connect(uri, experiment)
        store.bury_the_dead(self.client, self.experiment_id)
        tags = _origin() | {"sweep": folder}
        self.run_id = self.client.create_run(self.experiment_id, run_name=name, tags=tags).info.run_id

    def results(self) -> results.Results | None:
        """Of all finished jobs, if any."""
        return _results(self.client, self.experiment_id, self.run_id)

    def tag_results(self, digest: str) -> None:
        """Notes the digest of the results, by which `find` finds the run."""
        self.client.set_tag(self.run_id, DIGEST, digest)

    def keep(self, folder: Path, names: Sequence[str]) -> None:
        """Copies these files of a folder into the run's artifacts."""
        _keep(self.client, self.run_id, folder, names)

    def finish(self, status: str) -> None:
        """Ends the run."""
        store.end(self.client, self.run_id, status, reason="a job failed" if status == "FAILED" else None)


def collect(uri: str, run_id: str) -> results.Results:
    """The results of a recorded sweep, by the id of its parent run. Raises store.TrackingError if it has none."""
    client = store.client(uri)
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        raise store.TrackingError(f"{store.place(uri)} holds no run {run_id}") from error
    found = _results(client, run.info.experiment_id, run_id)
    if found is None:
        raise store.TrackingError(
            f"{run_id} ({run.info.run_name}) is no sweep: it has no finished jobs nested under it"
        )
    return found


def attach(uri: str, folder: Path, names: Sequence[str], *, run_id: str) -> None:
    """Copies files into the artifacts of a run."""
    _keep(store.client(uri), run_id, folder, names)


def find(uri: str, digest: str) -> str | None:
    """The id of the newest sweep whose results have this digest, if there is one."""
    client = store.client(uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(experiments, f"tags.`{DIGEST}` = '{digest}'", max_results=1)
    return found[0].info.run_id if found else None


def _keep(client: MlflowClient, run_id: str, folder: Path, names: Sequence[str]) -> None:
    for name in names:
        within = str(Path(name).parent)
        client.log_artifact(run_id, str(folder / name), None if within == "." else within)


def _results(client: MlflowClient, experiment_id: str, parent_id: str) -> results.Results | None:
    """The tables of all finished jobs, one under the other, with name and overrides as columns; the rest of each."""
    jobs = client.search_runs(
        [experiment_id],
        f"tags.`mlflow.parentRunId` = '{parent_id}' and attributes.status = 'FINISHED'",
        order_by=["attributes.start_time ASC"],
        max_results=50000,
    )
    newest = {job.info.run_name: job for job in jobs}  # a job that was run twice counts once
    tables, runs, tensors = [], {}, {}
    for name, job in newest.items():
        overrides = json.loads(job.data.tags["overrides"])
        swept = dict(item.lstrip("+~").partition("=")[::2] for item in overrides)
        with TemporaryDirectory() as folder:
            file = partial(client.download_artifacts, job.info.run_id, dst_path=folder)
            table = pd.read_csv(file(results.REPLICAS))
            tensors[name] = load_file(file(results.TENSORS))
            config = OmegaConf.to_container(OmegaConf.load(file(CONFIG)))
            runs[name] = {"overrides": swept, "config": config, "theory": json.loads(Path(file(THEORY)).read_text())}
        tables.append(pd.concat([pd.DataFrame({"run": name} | swept, index=table.index), table], axis=1))
    return results.Results(pd.concat(tables, ignore_index=True), runs, tensors) if tables else None


def _parent(client: MlflowClient, experiment_id: str, folder: str) -> str:
    found = client.search_runs([experiment_id], f"tags.sweep = \"{folder}\" and attributes.status = 'RUNNING'")
    if not found:
        raise store.TrackingError(f"the sweep in {folder} has no running parent in the tracking store")
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
