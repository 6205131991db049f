"""Sends the tracking store what it missed of runs that were made while it did not answer."""

import time
from collections.abc import Sequence
from pathlib import Path

from initlab.tracking import store
from initlab.tracking.artifacts import RUN
from initlab.tracking.journal import BusyError, Journal, locked
from initlab.tracking.run_logger import RunLogger

DEFAULT_FOLDERS = (Path("outputs"), Path("multirun"))


def sync_runs(folders: Sequence[Path], uri: str | None) -> int:
    """Syncs every run in these folders, and prints what was done. Returns how many runs could not be synced.

    folders: by default outputs/ and multirun/.  uri: of the store; by default the one in which each run began.
    Raises ValueError if the given folders hold no run.
    """
    runs = sorted({file.parent for folder in folders or DEFAULT_FOLDERS for file in folder.rglob(RUN)})
    if folders and not runs:
        raise ValueError(f"no run is in {', '.join(map(str, folders))}")
    synced = failed = 0
    for folder in runs:
        try:
            run_id = sync_run(uri, folder)
        except BusyError as error:
            print(f"skipped: {error}")
        except (OSError, ValueError) as error:
            failed += 1
            print(f"not synced: {folder}: {error}")
        else:
            if run_id is not None:
                synced += 1
                print(f"synced: {folder} as run {run_id}")
    if not synced and not failed:
        print(f"nothing to sync: the store has all of {len(runs)} runs")
    return failed


def sync_run(uri: str | None, folder: Path) -> str | None:
    """Sends the store what it lacks of the run in `folder`.

    uri: of the store; by default the one in which the run began.
    Returns the run's id, or None if the store has all of it.
    Raises store.TrackingError; ValueError if there is no run in the folder; BusyError if it is still running.
    """
    if not (folder / RUN).is_file():
        raise ValueError(f"{folder} holds no run: no {RUN}")
    with locked(folder):
        state = Journal(folder).state
        if state["synced"]:
            return None
        uri = uri or state["store"]
        if uri is None:
            raise ValueError(f"{folder}: its store needs a password; name it with --tracking-uri")
        logger = RunLogger(store.connect_existing(uri), store.location(uri), folder)
        store.get_run(logger.client, logger.run_id)
        if logger.journal.state["status"] is None:  # and no process holds the lock
            ended = logger.journal.last_active() or int(1000 * time.time())
            logger.journal.update(status="KILLED", reason="its process is gone", ended=ended)
        logger.sync()
        return logger.run_id
