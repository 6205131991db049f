"""Records a run: metrics, params, artifacts and provenance, in its folder first, then in the tracking store."""

import json
import logging
import os
import platform
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from omegaconf import OmegaConf
from safetensors.torch import save
from sqlalchemy.exc import SQLAlchemyError
from torch import Tensor

from initlab import atomic_files, processes
from initlab.confidence_intervals import mean_ci95
from initlab.tracking import artifacts, logged_model, provenance, reuse, store
from initlab.tracking import resume as resume_runs
from initlab.tracking.journal import Entry, Journal, check_unused, locked
from initlab.tracking.params import flatten, sha256
from initlab.tracking.provenance import Provenance

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # it may hold a password
log = logging.getLogger(__name__)

IDLE = "idle_ms"  # tag of a resumed run: milliseconds between its end, or its last measurement, and its resumption
BATCH = 1000  # MLflow's limit on the metrics of one log_batch
INTERVAL = 2  # seconds between two writes to the store during a run: larger batches cost half as much per point
PATIENCE = 10  # seconds that a run waits, at its end, for a store that does not answer
AWAY = (MlflowException, SQLAlchemyError, OSError)  # raised by a store that does not answer, is full or is locked


class RunLogger:
    """Logs one run. Metrics are means over replicas; `<name>.ci95` is the half-width of their interval.

    Everything is written to `folder` first. The store is a copy of it, and need not answer while the run goes on.
    """

    def __init__(self, client: MlflowClient, location: str, folder: Path) -> None:
        self.client, self.location, self.folder = client, location, folder
        self.journal = Journal(folder)
        self.allow: Sequence[str] = ()  # parts of the provenance in which a resumed run may differ
        self._sent = 0  # entries of the journal that the store has
        self._wait, self._until = 0.0, 0.0  # seconds; if the store does not answer, it is tried less and less often

    @property
    def run_id(self) -> str:
        """The run's id in the store."""
        return self.journal.state["run_id"]

    @property
    def finished(self) -> bool:
        """Whether the run had finished before this process opened it."""
        return self.journal.state["status"] == "FINISHED"

    def log_provenance(self, found: Provenance, dataset: Mapping[str, Any]) -> None:
        """Logs the run's provenance, and its data set {"name", "source", "facts"} as an MLflow input.

        Raises ValueError if the run was interrupted and began with other data; store.TrackingError.
        """
        recorded = self.recorded_provenance()
        if recorded is None:
            self.log_json(artifacts.PROVENANCE, found)
        else:
            self.check_unchanged(recorded, {"data": found["data"]})
        with store.tracking_errors(self.location):
            try:
                self.client.log_inputs(self.run_id, datasets=[_dataset_input(dataset)])
            except MlflowException:  # another run has just created the same data set: the second time it is there
                self.client.log_inputs(self.run_id, datasets=[_dataset_input(dataset)])
            tags = {"data.md5": dataset["facts"]["raw"], "device": found["machine"]["device"]}
            config = (self.folder / artifacts.CONFIG).read_text(encoding="utf-8")
            whole = recorded in (None, provenance.validated(found))  # or it goes on with something else, if allowed
            tags[reuse.INPUTS] = reuse.inputs_sha256(config, found) if whole else "none"
            self.client.log_batch(self.run_id, tags=[RunTag(name, value) for name, value in tags.items()])

    def recorded_provenance(self) -> Provenance | None:
        """Returns what the run began with, if it was interrupted. Raises ValueError if that can't be read."""
        path = self.folder / artifacts.PROVENANCE
        return provenance.validated(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None

    def check_unchanged(self, recorded: Provenance, now: Provenance) -> None:
        """Raises ValueError if a part of the provenance was different when the run began, unless `allow` names it.

        What differs and is allowed becomes a tag: the run is not what its provenance.json alone would give.
        """
        changed = provenance.differences({part: recorded[part] for part in now}, now)
        texts = {part: f"{part}: {', '.join(lines)}" for part, lines in changed.items()}
        refused = [part for part in texts if part not in self.allow]
        if refused:
            raise ValueError(
                f"the run in {self.folder} began with other {' and '.join(refused)} "
                f"({'; '.join(texts[part] for part in refused)}); restore them, go on all the same with "
                f'"allow=[{",".join([*self.allow, *refused])}]", or start a new run without resume'
            )
        for part, text in texts.items():
            log.warning(f"going on although the run began with other {text}")
            self.set_tags(**{f"resumed.with.{part}": text[:500]})

    def note_start(self, began: int | None) -> None:
        """Notes that this process works on the run, and how long the run was idle before.

        began: when a resumed run began, ms since 1970; None for a new run.
        """
        now, tags = int(1000 * time.time()), self.journal.state["tags"]
        if began is not None:
            idle = now - (self.journal.last_active() or began)
            tags = tags | {IDLE: str(int(tags.get(IDLE, 0)) + max(idle, 0))}
        self.journal.update(tags=tags, started=now, ended=None, status=None, reason=None, synced=False)

    def log_metrics(self, values: Mapping[int, Mapping[str, np.ndarray]]) -> None:
        """Logs {step: {metric: one value per replica (R,)}}: to disk at once, to the store within seconds.

        Raises ValueError if a value differs from the one logged before the run was interrupted.
        """
        self.journal.append(values)
        if time.monotonic() < self._until:
            return
        try:
            self._send_metrics()
        except AWAY as error:
            if not self._wait:
                log.warning(
                    f"{self.location} does not answer ({type(error).__name__}): training goes on, and its record waits "
                    f"in {self.folder}"
                )
            self._wait = min(max(2 * self._wait, 2.0), 60.0)
            self._until = time.monotonic() + self._wait
        else:
            self._note_answer()
            self._until = time.monotonic() + INTERVAL

    def set_tags(self, **tags: str) -> None:
        """Sets tags. The store gets them when the run ends."""
        self.journal.update(tags=self.journal.state["tags"] | tags)

    def log_text(self, name: str, text: str) -> None:
        """Writes a text as an artifact. The store gets it when the run ends."""
        atomic_files.write(self.folder / name, text.encode())

    def log_json(self, name: str, content: object) -> None:
        """Writes an object as a JSON artifact."""
        self.log_text(name, json.dumps(content, indent=1) + "\n")

    def log_results(self, theory: Mapping[str, float], tensors: Mapping[str, Tensor]) -> None:
        """Writes the expected statistics, every value of every replica, and the tensors of the figures."""
        self.log_json(artifacts.THEORY, dict(theory))
        self.log_text(artifacts.REPLICAS, self.journal.replicas().to_csv(index=False, lineterminator="\n"))
        atomic_files.write(self.folder / artifacts.TENSORS, save(dict(tensors)))

    def end(self, status: str, reason: str | None = None) -> None:
        """Ends the run. Waits a while for a store that does not answer, then raises store.TrackingError."""
        try:
            self.journal.update(status=status, reason=reason, ended=int(1000 * time.time()), synced=False)
        finally:  # even on a full disk, the store gets the run's end
            self.sync(patience=PATIENCE)

    def sync(self, *, patience: float = 0) -> None:
        """Sends the store what it may lack of the folder: metrics, artifacts, tags, the run's end. May be called twice.

        patience: seconds to keep trying.  Raises store.TrackingError.
        """
        until = time.monotonic() + patience
        while True:
            try:
                self._send_metrics()
                self._send_the_rest()
                break
            except AWAY as error:
                if time.monotonic() > until:
                    raise store.TrackingError(
                        f"the store does not accept this run's record ({store.describe(self.location, error)[:300]}); "
                        f"it waits in {self.folder}; once the store is back: initlab sync {self.folder}"
                    ) from error
                time.sleep(1)
        self.journal.update(synced=True)
        self._note_answer()

    def _note_answer(self) -> None:
        if self._wait:
            log.info(f"{self.location} is back, and has everything so far")
        self._wait = self._until = 0.0

    def _send_metrics(self) -> None:
        """Sends metrics in few writes. Their times are the journal's, so that a point sent twice stays one point."""
        entries = self.journal.entries
        points = [point for entry in entries[self._sent :] for point in _points(entry)]
        for start in range(0, len(points), BATCH):
            self.client.log_batch(self.run_id, metrics=points[start : start + BATCH])
        self._sent = len(entries)

    def _send_the_rest(self) -> None:
        state = self.journal.state
        for name in artifacts.OF_A_RUN:
            if (self.folder / name).is_file():
                self.client.log_artifact(self.run_id, str(self.folder / name))
        checkpoints, networks = self.folder / artifacts.CHECKPOINTS, self.folder / artifacts.MODEL
        if state["status"] == "FINISHED" and checkpoints.is_dir():
            self.client.log_artifacts(self.run_id, str(checkpoints), artifacts.CHECKPOINTS)
        tags = state["tags"] | ({"end.reason": state["reason"][:500]} if state["reason"] else {})
        self.client.log_batch(self.run_id, tags=[RunTag(name, value) for name, value in tags.items()])
        if state["reason"] is None and "end.reason" in self.client.get_run(self.run_id).data.tags:
            self.client.delete_tag(self.run_id, "end.reason")  # another process had marked the run as killed
        if state["status"] is not None:
            self.client.set_terminated(self.run_id, state["status"], state["ended"])
        if state["status"] == "FINISHED" and networks.is_dir():  # last, since a store may not accept models
            logged_model.publish(self.client, self.run_id, networks, state["register"])


@contextmanager
def start_run(
    *,
    uri: str,
    experiment: str,
    folder: Path,
    name: str,
    config: Mapping[str, Any],
    overrides: Sequence[str] = (),
    sweep: str | None = None,
    resume: bool = False,
    allow: Sequence[str] = (),
    register: str | None = None,
    tags: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[RunLogger]:
    """Records a run within the context: FINISHED if the body returns, FAILED if it raises, KILLED if a signal ends it.

    config: the run's configuration, logged as params and as config.yaml.  sweep: folder of the sweep that it is a job
    of.  resume: continue the run in `folder`, if there is one.  allow: parts of the provenance (code, packages, data)
    in which it may differ from what it began with.  register: the registered model that its networks become a version
    of.
    Raises store.TrackingError, and ValueError if the folder holds another run or one that can't be continued.
    """
    if not resume and sweep is None:
        check_unused(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with processes.exit_on_signals(), locked(folder):
        client, experiment_id = store.connect(uri, experiment)
        logger = RunLogger(client, store.location(uri), folder)
        logger.allow = allow
        text = OmegaConf.to_yaml(config)
        with store.tracking_errors(logger.location):
            resume_runs.mark_orphaned_runs_killed(client, experiment_id)
            parent_id = None if sweep is None else store.running_parent_id(client, experiment_id, sweep)
            earlier = _find_run(logger, experiment_id, parent_id, resume=resume, config_sha256=sha256(text))
            all_tags = owner_tags() | {
                "folder": str(folder),
                "seed": str(config["seed"]),
                "config.sha256": sha256(text),
                "overrides": json.dumps(list(overrides)),
                **tags,
            }
            if parent_id is not None:
                all_tags["mlflow.parentRunId"] = parent_id
                all_tags |= [store.membership(parent_id, folder, name, overrides)]
            run_id = earlier or client.create_run(experiment_id, run_name=name, tags=all_tags).info.run_id
        recorded = None if logger.finished else logger.recorded_provenance()
        if recorded is not None:
            now = {"code": provenance.code(recorded["code"]), "packages": provenance.packages()}
            logger.check_unchanged(recorded, now)
        logger.journal.update(run_id=run_id, store=store.public_uri(uri), register=register)
        if logger.finished:
            if not logger.journal.state["synced"]:
                logger.sync()
            yield logger
            return
        with _ended_by_outcome(logger, resumable="replay.of" not in tags):  # a replay can't be resumed
            began = None
            with store.tracking_errors(logger.location):
                if earlier is not None:
                    began = store.get_run(client, earlier).info.start_time
                    resume_runs.reopen_run(client, earlier)
                params = [Param(key, value) for key, value in flatten(config)]
                for start in range(0, len(params), store.PARAMS):
                    client.log_batch(run_id, params=params[start : start + store.PARAMS])
            logger.note_start(began)
            (folder / artifacts.TRACEBACK).unlink(missing_ok=True)
            logger.log_text(artifacts.CONFIG, text)
            yield logger


def _find_run(
    logger: RunLogger, experiment_id: str, parent_id: str | None, *, resume: bool, config_sha256: str
) -> str | None:
    """Returns the id of the run that continues in the logger's folder; None if a new one starts there.

    A run continues if it is resumed, or if a launcher has restarted a job of a sweep whose process was lost.
    Raises ValueError if the folder holds another run.
    """
    client, folder = logger.client, logger.folder
    run_id = logger.journal.state["run_id"]
    if run_id is None and (resume or parent_id is not None):
        run_id = resume_runs.find_unrecorded_run(client, experiment_id, folder)
    if not resume:
        run = None if run_id is None or parent_id is None else store.get_run(client, run_id)
        if run is None or run.data.tags.get("mlflow.parentRunId") != parent_id:
            check_unused(folder)
            return None
    if run_id is not None and store.get_run(client, run_id).data.tags["config.sha256"] != config_sha256:
        raise ValueError(f"{folder} holds run {run_id}, of another configuration; resume needs the same command")
    return run_id


@contextmanager
def _ended_by_outcome(logger: RunLogger, *, resumable: bool) -> Iterator[None]:
    """Ends the run as the body ends: with its status, the reason as a tag, and the traceback as an artifact."""
    try:
        yield
        logger.end("FINISHED")
        log.info(f"recorded as run {logger.run_id}")
    except BaseException as error:
        if not logger.finished:
            with suppress(OSError):  # no room for it
                logger.log_text(artifacts.TRACEBACK, store.redact(traceback.format_exc()))
            status, reason = store.end_status(store.redact(f"{type(error).__name__}: {error}"))
            try:
                # A job that exits without a signal is to start again: submitit exits like this when Slurm preempts it.
                logger.end("KILLED" if isinstance(error, SystemExit) else status, reason)
            except OSError as lost:
                log.error(lost)
            if (logger.folder / artifacts.LAST_CHECKPOINT).exists() and resumable:
                log.info("to continue from its last checkpoint: the same train.py command, with resume=true")
        raise


def owner_tags() -> dict[str, str]:
    """Returns tags that name who started a run, its process, code and results."""
    return provenance.tags() | {
        "owner": processes.owner(),
        "host": platform.node(),  # for people; `owner` has a hash
        "mlflow.user": store.user() or processes.user(),
        "mlflow.source.name": Path(sys.argv[0]).name,
        "mlflow.source.type": "LOCAL",
    }


def _points(entry: Entry) -> Iterator[Metric]:
    for name, replicas in entry.values.items():
        mean, ci95 = mean_ci95(replicas)
        yield Metric(name, mean, entry.time, entry.step)
        if ci95 is not None:
            yield Metric(f"{name}.ci95", ci95, entry.time, entry.step)


def _dataset_input(data: Mapping[str, Any]) -> DatasetInput:
    """Returns the data set as MLflow's UI shows it: name, digest, number of images of each split."""
    profile = {name: fact["images"] for name, fact in data["facts"]["splits"].items()}
    entity = Dataset(
        name=data["name"],
        digest=data["facts"]["raw"].removesuffix(".dir"),
        source_type="local",
        source=json.dumps({"uri": data["source"]}),
        profile=json.dumps(profile | {key: data["facts"][key] for key in ("mean", "std", "inputs", "classes")}),
    )
    return DatasetInput(entity, [InputTag("mlflow.data.context", "training")])
