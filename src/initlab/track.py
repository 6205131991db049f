"""What is recorded of a run: metrics, params, artifacts and provenance, in its folder and in the tracking store."""

import hashlib
import json
import logging
import os
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

from initlab import files, model, origin, process, results, store
from initlab.journal import RUN, Entry, Journal, alone, refuse_used, run_in
from initlab.stats import mean_ci95

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # it may hold a password
log = logging.getLogger(__name__)

BATCH = 1000  # MLflow's limit on the metrics of one log_batch; 100 on its params
INTERVAL = 2  # seconds between two tellings while a run goes on: many points at once cost half as much each
PATIENCE = 10  # seconds that a run which has ended waits for a store that is away
AWAY = (MlflowException, SQLAlchemyError, OSError)  # what a store that is away, full or locked may raise
CONFIG, ORIGIN, THEORY, TRACEBACK = "config.yaml", "origin.json", "theory.json", "traceback.txt"
KEPT = (CONFIG, ORIGIN, THEORY, TRACEBACK, results.REPLICAS, results.TENSORS)  # a run's artifacts, beside
CHECKPOINTS, MODEL = "checkpoints", "model"
LAST = f"{CHECKPOINTS}/last.ckpt"


class Run:
    """One run of the store, while it goes on. Metrics are means over replicas, `<name>.ci95` their 95 % half-width.

    All that is recorded is in `folder` first: the store is a copy of it, and may be away while the run goes on.
    """

    def __init__(self, client: MlflowClient, place: str, folder: Path) -> None:
        self.client, self.place, self.folder = client, place, folder
        self.journal = Journal(folder)
        self._told = 0  # entries of the journal that the store has
        self._wait, self._until = 0.0, 0.0  # seconds; while the store is away it is told less and less often

    @property
    def run_id(self) -> str:
        return self.journal.facts["run_id"]

    @property
    def finished(self) -> bool:
        """Whether it was, before this process took it up."""
        return self.journal.facts["status"] == "FINISHED"

    def begin(self, found: origin.Origin, data: Mapping[str, Any]) -> None:
        """Notes where the run comes from, and the data set {"name", "source", "facts"}, as its input.

        Raises ValueError if it began as something else, before it was interrupted.
        """
        if (self.folder / ORIGIN).exists():
            _refuse_changed(self.folder, {"data": found["data"]})
        else:
            self.keep(ORIGIN, found)
        with store.asked(self.place):
            try:
                self.client.log_inputs(self.run_id, datasets=[_dataset(data)])
            except MlflowException:  # another run noted the same data in this moment: the second time it is there
                self.client.log_inputs(self.run_id, datasets=[_dataset(data)])
            tags = RunTag("data.md5", data["facts"]["raw"]), RunTag("device", found["machine"]["device"])
            self.client.log_batch(self.run_id, tags=tags)

    def log(self, values: Mapping[int, Mapping[str, np.ndarray]]) -> None:
        """Logs {step: {metric: value of each replica (R,)}}: on disk at once, and in the store some seconds later."""
        self.journal.append(values)
        if time.monotonic() < self._until:
            return
        try:
            self._tell_metrics()
        except AWAY as error:
            if not self._wait:
                log.warning(
                    f"{self.place} does not answer ({type(error).__name__}): training goes on, and its record waits in "
                    f"{self.folder}"
                )
            self._wait = min(max(2 * self._wait, 2.0), 60.0)
            self._until = time.monotonic() + self._wait
        else:
            self._is_back()
            self._until = time.monotonic() + INTERVAL

    def tag(self, **tags: str) -> None:
        """Sets tags of the run, when it ends."""
        self.journal.note(tags=self.journal.facts["tags"] | tags)

    def keep(self, name: str, content: object) -> None:
        """Keeps a text, or what JSON can hold, as an artifact of that name."""
        text = content if isinstance(content, str) else json.dumps(content, indent=1) + "\n"
        files.write(self.folder / name, text.encode())

    def evidence(self, theory: Mapping[str, float], tensors: Mapping[str, Tensor]) -> None:
        """Keeps what theory expected of the run, every value of every replica, and what pictures of it are made of."""
        self.keep(THEORY, dict(theory))
        self.keep(results.REPLICAS, self.journal.replicas().to_csv(index=False))
        files.write(self.folder / results.TENSORS, save(dict(tensors)))

    def end(self, status: str, reason: str | None = None) -> None:
        """Ends the run, and waits a while for the store if it is away. Raises store.TrackingError if it stays so."""
        try:
            self.journal.note(status=status, reason=reason, ended=int(1000 * time.time()), told=False)
        finally:  # a disk that is full is no reason not to tell the store
            self.tell(patience=PATIENCE)

    def tell(self, *, patience: float = 0) -> None:
        """Tells the store what the folder has and it may not: metrics, artifacts, tags, the end.

        All of it may be told twice. patience: seconds to go on trying.  Raises store.TrackingError.
        """
        until = time.monotonic() + patience
        while True:
            try:
                self._tell_metrics()
                self._tell_the_rest()
                break
            except AWAY as error:
                if time.monotonic() > until:
                    raise store.TrackingError(
                        f"the store does not take the record of this run ({store.trouble(self.place, error)[:300]}); "
                        f"it waits in {self.folder}; "
                        f"once the store is back: python -m initlab.deliver {self.folder}"
                    ) from error
                time.sleep(1)
        self.journal.note(told=True)
        self._is_back()

    def _is_back(self) -> None:
        if self._wait:
            log.info(f"{self.place} is back, and has everything so far")
        self._wait = self._until = 0.0

    def _tell_metrics(self) -> None:
        """In as few writes as MLflow allows; with the time of the journal, so that a point told twice is one point."""
        entries = self.journal.entries
        points = [point for entry in entries[self._told :] for point in _points(entry)]
        for start in range(0, len(points), BATCH):
            self.client.log_batch(self.run_id, metrics=points[start : start + BATCH])
        self._told = len(entries)

    def _tell_the_rest(self) -> None:
        facts = self.journal.facts
        for name in KEPT:
            if (self.folder / name).is_file():
                self.client.log_artifact(self.run_id, str(self.folder / name))
        if facts["status"] == "FINISHED" and (self.folder / CHECKPOINTS).is_dir():
            self.client.log_artifacts(self.run_id, str(self.folder / CHECKPOINTS), CHECKPOINTS)
        tags = facts["tags"] | ({"end.reason": facts["reason"][:500]} if facts["reason"] else {})
        self.client.log_batch(self.run_id, tags=[RunTag(name, value) for name, value in tags.items()])
        if facts["reason"] is None and "end.reason" in self.client.get_run(self.run_id).data.tags:
            self.client.delete_tag(self.run_id, "end.reason")  # another process took it for dead meanwhile
        if facts["status"] is not None:
            self.client.set_terminated(self.run_id, facts["status"], facts["ended"])
        if facts["status"] == "FINISHED" and (self.folder / MODEL).is_dir():  # last: a store may take no models
            model.publish(self.client, self.run_id, self.folder / MODEL, facts["register"])


def _refuse_changed(folder: Path, now: origin.Origin) -> None:
    """Raises ValueError if the run in the folder began with another of these parts of its origin."""
    recorded = origin.whole(json.loads((folder / ORIGIN).read_text()))
    changed = origin.differences({part: recorded[part] for part in now}, now)
    if changed:
        lines = "; ".join(f"{part}: {', '.join(lines)}" for part, lines in changed.items())
        raise ValueError(
            f"the run in {folder} began as something else ({lines}); put that back, or start a new run without resume"
        )


def _points(entry: Entry) -> Iterator[Metric]:
    for name, replicas in entry.values.items():
        mean, ci95 = mean_ci95(replicas)
        yield Metric(name, mean, entry.time, entry.step)
        if ci95 is not None:
            yield Metric(f"{name}.ci95", ci95, entry.time, entry.step)


@contextmanager
def run(
    *,
    uri: str,
    experiment: str,
    folder: Path,
    name: str,
    config: Mapping[str, Any],
    overrides: Sequence[str] = (),
    sweep: str | None = None,
    resume: bool = False,
    register: str | None = None,
    tags: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Run]:
    """A run that ends as its body does: FINISHED, FAILED with the reason and the traceback, KILLED by a signal.

    folder: where it is kept on disk.  config: resolved, plain; becomes the run's params (flat) and its config.yaml.
    sweep: the sweep's folder, if it is part of one; its parent is found by that.  resume: go on with the run that is in
    the folder, if one is; one that has finished is given as it is, to be left alone. A job of a sweep goes on with its
    own anyway: a launcher starts a job again that was interrupted.  register: the
    registered model that its model becomes a version of.  tags: further ones.
    Raises ValueError if the folder holds a run and is not to be resumed, or one of another configuration;
    store.TrackingError.
    """
    if not resume and sweep is None:
        refuse_used(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with process.exit_on_signals(), alone(folder):
        if not resume and sweep is None:
            refuse_used(folder)  # again: another process may have been faster
        client, experiment_id = store.connect(uri, experiment)
        current = Run(client, store.place(uri), folder)
        text = OmegaConf.to_yaml(config)
        with store.asked(current.place):
            store.bury_the_dead(client, experiment_id)
            parent = None if sweep is None else store.parent(client, experiment_id, sweep)
            earlier = current.journal.facts["run_id"]
            if earlier is None and (resume or parent is not None):
                earlier = store.begun_in(client, experiment_id, folder)
            # A launcher starts a job again whose process was lost: a sweep's job goes on with its own.
            its_own = earlier is not None and store.get(client, earlier).data.tags.get("mlflow.parentRunId") == parent
            if parent is not None and not resume and not its_own:
                refuse_used(folder)
                earlier = None
            run_id = earlier
            if run_id is None:
                known = {
                    "folder": str(folder),
                    "seed": str(config["seed"]),
                    "config.sha256": sha256(text),
                    "overrides": json.dumps(list(overrides)),
                }
                if parent is not None:
                    known["mlflow.parentRunId"] = parent
                all_tags = owner() | known | dict(tags)
                run_id = client.create_run(experiment_id, run_name=name, tags=all_tags).info.run_id
            elif store.get(client, run_id).data.tags["config.sha256"] != sha256(text):
                raise ValueError(
                    f"{folder} holds run {run_id}, of another configuration; resume needs the same command"
                )
        if (folder / ORIGIN).exists() and not current.finished:
            recorded = json.loads((folder / ORIGIN).read_text())
            _refuse_changed(folder, {"code": origin.code(recorded["code"]), "packages": origin.packages()})
        current.journal.note(run_id=run_id, store=store.public(uri), register=register)
        if current.finished:
            if not current.journal.facts["told"]:
                current.tell()
            yield current
            return
        try:
            with store.asked(current.place):
                if earlier is not None:
                    store.reopen(client, earlier)
                params = [Param(key, value) for key, value in flat(config)]
                for start in range(0, len(params), 100):
                    client.log_batch(run_id, params=params[start : start + 100])
            current.journal.note(status=None, reason=None, told=False)
            (folder / TRACEBACK).unlink(missing_ok=True)
            current.keep(CONFIG, text)
            yield current
            current.end("FINISHED")
            log.info(f"recorded as run {run_id}")
        except BaseException as error:
            if not current.finished:
                with suppress(OSError):  # no room for it
                    current.keep(TRACEBACK, store.redact(traceback.format_exc()))
                status, reason = store.verdict(store.redact(f"{type(error).__name__}: {error}"))
                try:
                    # Who leaves so without a signal of ours is to start again: submitit, when Slurm takes the machine.
                    current.end("KILLED" if isinstance(error, SystemExit) else status, reason)
                except OSError as lost:
                    log.error(lost)
                if (folder / LAST).exists() and "replay.of" not in tags:  # a replay is not gone on with
                    log.info("to go on from its last checkpoint: the same train.py command, with resume=true")
            raise


def resumable(uri: str, experiment: str, config: Mapping[str, Any], run_id: str | None) -> Path | None:
    """The folder of a run that can be gone on with: of `run_id`, or of the newest of this configuration that was
    interrupted or failed, if there is one. Raises ValueError if `run_id` can't be; store.TrackingError.
    """
    client, experiment_id = store.connect(uri, experiment)
    store.bury_the_dead(client, experiment_id)
    digest = sha256(OmegaConf.to_yaml(config))
    if run_id is None:
        found = store.interrupted(client, experiment_id, f"tags.`config.sha256` = '{digest}'")
        single = [one for one in found if not {"mlflow.parentRunId", "replay.of"} & one.data.tags.keys()]
        folders = {one.info.run_id: Path(one.data.tags["folder"]) for one in single}
        return next((folder for known, folder in folders.items() if run_in(folder) == known), None)
    found = store.get(client, run_id)
    folder = store.folder_of(found, "folder")
    if found.data.tags["config.sha256"] != digest:
        recorded = dict(flat(OmegaConf.to_container(OmegaConf.load(folder / CONFIG))))
        now = dict(flat(config))
        changed = [key for key in {**recorded, **now} if recorded.get(key) != now.get(key)]
        lines = ", ".join(f"{key} {recorded.get(key)}, here {now.get(key)}" for key in changed)
        raise ValueError(f"run {run_id} had another configuration: {lines}; resume needs the same command")
    return folder


def deliver(uri: str | None, folder: Path) -> str | None:
    """Tells the store, or that which the run began in, what it has not been told of the run in `folder`.

    Returns the run's id, None if the store has it all.

    Raises store.TrackingError; ValueError if no run is in the folder; journal.BusyError if it is going on.
    """
    if not (folder / RUN).is_file():
        raise ValueError(f"{folder} holds no run: no {RUN}")
    with alone(folder):
        facts = Journal(folder).facts
        if facts["told"]:
            return None
        uri = uri or facts["store"]
        if uri is None:
            raise ValueError(f"{folder}: its store needs a password; name it with --tracking-uri")
        current = Run(store.client(uri), store.place(uri), folder)
        store.get(current.client, current.run_id)
        if current.journal.facts["status"] is None:  # and nobody is at it
            current.journal.note(status="KILLED", reason="its process is gone", ended=int(1000 * time.time()))
        current.tell()
        return current.run_id


def owner() -> dict[str, str]:
    """Who runs it, and from what."""
    return origin.tags() | {
        "owner": process.owner(),
        "mlflow.user": store.user() or process.user(),
        "mlflow.source.name": Path(sys.argv[0]).name,
        "mlflow.source.type": "LOCAL",
    }


def _dataset(data: Mapping[str, Any]) -> DatasetInput:
    """The data set as MLflow's UI shows it: name, digest, the images of each split."""
    profile = {name: fact["images"] for name, fact in data["facts"]["splits"].items()}
    entity = Dataset(
        name=data["name"],
        digest=data["facts"]["raw"].removesuffix(".dir"),
        source_type="local",
        source=json.dumps({"uri": data["source"]}),
        profile=json.dumps(profile | {key: data["facts"][key] for key in ("mean", "std", "inputs", "classes")}),
    )
    return DatasetInput(entity, [InputTag("mlflow.data.context", "training")])


def flat(config: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    """{"init": {"scale": 1}} -> ("init.scale", "1"); items of a list by their number."""
    if isinstance(config, dict | list) and config:
        for key, value in config.items() if isinstance(config, dict) else enumerate(config):
            yield from flat(value, f"{prefix}{key}.")
    else:
        yield prefix[:-1], json.dumps(config) if not isinstance(config, str) else config


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
