"""Runs whose process was lost: marked as killed, and found again to be resumed."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run
from omegaconf import OmegaConf

from initlab import processes
from initlab.tracking import artifacts, store
from initlab.tracking.journal import recorded_run_id
from initlab.tracking.params import flatten, sha256


def mark_orphaned_runs_killed(client: MlflowClient, experiment_id: str) -> None:
    """Marks runs KILLED whose status is RUNNING although their process on this host is gone, as after kill -9."""
    for lost in store.search_runs(client, experiment_id, "attributes.status = 'RUNNING'"):
        owner = lost.data.tags.get("owner")
        if owner is None or not processes.is_gone(owner):
            continue
        if client.get_run(lost.info.run_id).info.status == "RUNNING":  # it has not ended in the meantime
            store.end_run(client, lost.info.run_id, "KILLED", reason="its process is gone")


def find_resumable_run(uri: str, experiment: str, config: Mapping[str, Any], run_id: str | None) -> Path | None:
    """Returns the folder of the run to resume: of `run_id` or, if that is None, of the newest that did not finish.

    It must have the same configuration. Returns None if there is no such run.
    Raises store.TrackingError, and ValueError if `run_id` can't be resumed.
    """
    client, experiment_id = store.connect(uri, experiment)
    mark_orphaned_runs_killed(client, experiment_id)
    digest = sha256(OmegaConf.to_yaml(config))
    if run_id is None:
        runs = interrupted_runs(client, experiment_id, f"tags.`config.sha256` = '{digest}'")
        single = [run for run in runs if not {"mlflow.parentRunId", "replay.of"} & run.data.tags.keys()]
        folders = {run.info.run_id: Path(run.data.tags["folder"]) for run in single}
        return next((folder for known, folder in folders.items() if recorded_run_id(folder) == known), None)
    run = store.get_run(client, run_id)
    folder = resumable_folder(run, "folder")
    if run.data.tags["config.sha256"] != digest:
        recorded = dict(flatten(OmegaConf.to_container(OmegaConf.load(folder / artifacts.CONFIG))))
        now = dict(flatten(config))
        changed = [key for key in {**recorded, **now} if recorded.get(key) != now.get(key)]
        lines = ", ".join(f"{key} {recorded.get(key)}, here {now.get(key)}" for key in changed)
        raise ValueError(f"run {run_id} had another configuration: {lines}; resume needs the same command")
    return folder


def find_resumable_sweep(uri: str, experiment: str, overrides: Sequence[str], run_id: str | None) -> Path | None:
    """Returns the folder of the sweep to resume: of `run_id` or, if that is None, of the newest that did not finish.

    It must have the same overrides. Returns None if there is no such sweep.
    Raises store.TrackingError, and ValueError if `run_id` can't be resumed.
    """
    client, experiment_id = store.connect(uri, experiment)
    mark_orphaned_runs_killed(client, experiment_id)
    text = json.dumps(list(overrides))
    if run_id is None:
        sweeps = interrupted_runs(client, experiment_id, "tags.sweep != ''")
        folders = [Path(one.data.tags["sweep"]) for one in sweeps if one.data.tags.get("overrides") == text]
        return next((folder for folder in folders if folder.is_dir()), None)
    found = store.get_run(client, run_id)
    folder = resumable_folder(found, "sweep")
    if found.data.tags.get("overrides") != text:
        raise ValueError(f"sweep {run_id} was of {found.data.tags.get('overrides')}; resume needs the same command")
    return folder


def interrupted_runs(client: MlflowClient, experiment_id: str, query: str) -> list[Run]:
    """Returns the runs that were killed or failed, newest first."""
    found = store.search_runs(client, experiment_id, f"{query} and attributes.status != 'FINISHED'")
    return [run for run in found if run.info.status in ("KILLED", "FAILED")]


def resumable_folder(run: Run, tag: str) -> Path:
    """Returns the folder of a run to resume. Raises ValueError if the run can't be resumed.

    tag: `folder` for a run, `sweep` for a sweep.
    """
    if tag not in run.data.tags:
        what = "a sweep: resume it with -m" if tag == "folder" else "not a sweep: resume it without -m"
        raise ValueError(f"run {run.info.run_id} is {what}")
    if run.info.status == "FINISHED":
        raise ValueError(f"run {run.info.run_id} has finished; there is nothing to resume")
    if run.info.status == "RUNNING" and processes.is_alive(run.data.tags.get("owner", "")):
        raise ValueError(f"run {run.info.run_id} is still running on this host")
    folder = Path(run.data.tags[tag])
    if not folder.is_dir():
        raise ValueError(f"run {run.info.run_id} can't be resumed: its folder, {folder}, is not there")
    return folder


def reopen_run(client: MlflowClient, run_id: str) -> None:
    """Sets a run to RUNNING again, owned by this process."""
    client.set_tag(run_id, "owner", processes.owner())  # first, or another process could mark the run KILLED
    client.update_run(run_id, status="RUNNING")
    if "end.reason" in client.get_run(run_id).data.tags:
        client.delete_tag(run_id, "end.reason")


def find_unrecorded_run(client: MlflowClient, experiment_id: str, folder: Path) -> str | None:
    """Returns the id of a run that was created for this folder, but whose process ended before it was noted there."""
    query = "attributes.status != 'FINISHED'"
    found = store.tagged_runs(client, experiment_id, "folder", str(folder), query)
    return found[0].info.run_id if found and not found[0].data.metrics else None
