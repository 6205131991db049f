"""The tracking store: connecting to it, failing fast if it does not answer, and keeping the status of its runs true."""

import json
import logging
import os
import re
import socket
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from errno import EACCES, EISDIR
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import requests
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.artifacts import list_artifacts
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils.credentials import read_mlflow_creds
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from initlab import processes
from initlab.tracking import ui

# MLflow would retry for minutes. Here, a run's record waits on disk instead.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")

# No messages about new tables, and no stack traces if a store is locked or does not answer.
logging.getLogger("alembic").setLevel(logging.WARNING)
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)

PAGE = 500  # runs per request
PARAMS = 100  # MLflow's limit on the params of one log_batch
PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}


class TrackingError(OSError):
    """The tracking store does not answer, refuses this user, or can't be written."""


def connect(uri: str, experiment: str) -> tuple[MlflowClient, str]:
    """Returns a client of the store at `uri` and the id of the experiment. Both are created if they don't exist.

    A sqlite file is created under a lock, so that several processes can start at once, and in WAL mode, so that runs
    can write at the same time. Raises TrackingError within seconds if the store does not answer, or refuses this user.
    """
    file = _file(uri)
    _probe(uri, file)
    try:
        with FileLock(f"{file}.lock", timeout=60) if file else nullcontext():
            if not uri.startswith("http"):
                # Creates the tables. MLflow puts where artifacts go into an SQL text as it is; a URI has no quotes.
                SqlAlchemyStore(uri, _artifact_root(file))
            client = MlflowClient(uri)
            return client, _experiment(client, experiment, file)
    except TrackingError:
        raise
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise TrackingError("tracking.uri: " + describe(location(uri), error, "can't be used")) from error


def check_artifact_store(client: MlflowClient, experiment_id: str) -> None:
    """Raises TrackingError if a server answers, but the artifact store behind it does not."""
    artifact_location = client.get_experiment(experiment_id).artifact_location
    if not artifact_location.startswith("mlflow-artifacts:"):
        return
    try:
        list_artifacts(f"{artifact_location}/of-no-run", tracking_uri=client.tracking_uri)
    except (MlflowException, OSError) as error:
        where = location(client.tracking_uri)
        raise TrackingError(f"tracking.uri: {where} can't reach its artifact store; its log says why") from error


def connect_existing(uri: str) -> MlflowClient:
    """Returns a client of a store that exists already. Raises TrackingError if there is none."""
    file = _file(uri)
    if file is not None and not file.is_file():
        raise TrackingError(f"there is no tracking store at {file}")
    _probe(uri, file)
    return MlflowClient(uri)


@contextmanager
def tracking_errors(location: str) -> Iterator[None]:
    """Within the context, turns what MLflow raises if the store at `location` does not answer into TrackingError."""
    try:
        yield
    except TrackingError:
        raise
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise TrackingError(describe(location, error)) from error


def describe(location: str, error: Exception, otherwise: str = "does not answer") -> str:
    """Returns what an error of the store at `location` means, in one line without passwords.

    otherwise: what to write if the store did not refuse access.
    """
    status = None
    if isinstance(error, MlflowException):
        status = error.get_http_status_code()
    elif isinstance(error, requests.HTTPError) and error.response is not None:  # raised for artifacts
        status = error.response.status_code
    if status == 401:
        refused = f"does not accept the password of {user()}" if user() else "requires a user name and a password"
        return f"{location} {refused}; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    if status == 403:
        return f"{location} does not permit {user()} to do this; its admin can: docs/server.md"
    return f"{location} {otherwise}: {redact(str(error).splitlines()[0])}"


def user() -> str | None:
    """Returns the user name that is sent to a server, if one is set."""
    return read_mlflow_creds().username


def public_uri(uri: str) -> str | None:
    """Returns the URI of a store, if it contains no password."""
    return uri if redact(uri) == uri else None


def redact(text: str) -> str:
    """Removes user names and passwords from the URIs in a text."""
    return re.sub(r"(?<!/)//[^/@\s]+@", "//", text)  # not sqlite:///me@home/mlflow.db


def location(uri: str) -> str:
    """Returns where a store is, without the password that its URI may contain."""
    return str(_file(uri) or urlsplit(uri).netloc.rpartition("@")[2])


def _file(uri: str) -> Path | None:
    """Returns the file of a sqlite store, if it is one. Raises TrackingError if its URI names no file."""
    if not uri.startswith("sqlite"):
        return None
    with suppress(ArgumentError):
        url = make_url(uri)
        options = uri.partition("?")[1] == "" or (url.query and all(map(str.isidentifier, url.query)))
        if url.database not in (None, "", ":memory:") and options:
            return Path(str(url.database))
    expected = "sqlite:///FILE, or sqlite:///FILE?timeout=60 with an option; no path with a ?"
    raise TrackingError(f"tracking.uri is {uri!r}; expected {expected}")


def _artifact_root(file: Path | None) -> str:
    """Returns the URI of the folder in which a database's artifacts go: mlruns, beside the file of a sqlite store."""
    return (Path.cwd() if file is None else file.absolute().parent).joinpath("mlruns").as_uri()


def _experiment(client: MlflowClient, name: str, file: Path | None) -> str:
    """Returns the id of the experiment, which is created if necessary. Raises TrackingError if it is deleted."""
    found, tags = client.get_experiment_by_name(name), ui.experiment_tags()
    if found is None:
        if file:
            with closing(sqlite3.connect(file)) as database:
                database.execute("PRAGMA journal_mode=WAL")
        artifact_location = _artifact_root(file) if file else None
        try:
            return client.create_experiment(name, artifact_location, tags)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)  # another process was faster; a server has no lock
    if found.lifecycle_stage == "deleted":
        raise TrackingError(
            f"tracking.experiment: {name} is deleted; bring it back with `mlflow experiments restore "
            f"--experiment-id {found.experiment_id}`, or name another"
        )
    missing = tags.keys() - found.tags.keys()  # if somebody else created it
    # Writing a tag again shows, before any work is done, whether the server lets this user write.
    for key in missing or (["mlflow.experimentKind"] if file is None else []):
        client.set_experiment_tag(found.experiment_id, key, found.tags.get(key, tags[key]))
    return found.experiment_id


def _probe(uri: str, file: Path | None) -> None:
    """Fails fast, where MLflow itself would retry for minutes. Raises TrackingError."""
    if file is not None:
        _probe_file(file)
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
        start = f"mlflow server --host {parts.hostname} --port {parts.port}"
        hint = f"; on this machine, start one with: {start}" if scheme == "http" and parts.port else ""
        raise TrackingError(
            f"tracking.uri: no MLflow store answers at {address} ({type(error).__name__}){hint}"
        ) from error


def _probe_file(file: Path) -> None:
    """Checks that a sqlite file can be written, and creates it if it does not exist.

    An existing database is not opened. Closing it would drop the locks that sqlite holds on it in this process, and the
    next process that exits would delete the write-ahead log (https://sqlite.org/howtocorrupt.html, section 2.2).
    """
    try:
        if not file.exists():
            file.open("ab").close()
        elif not file.is_file():
            raise IsADirectoryError(EISDIR, os.strerror(EISDIR))
        elif not os.access(file, os.W_OK):
            raise PermissionError(EACCES, os.strerror(EACCES))
    except OSError as error:
        raise TrackingError(f"tracking.uri: {file} can't be written: {error.strerror}") from error


def get_run(client: MlflowClient, run_id: str) -> Run:
    """Returns a run of the store. Raises TrackingError if there is none with this id."""
    with tracking_errors(location(client.tracking_uri)):
        try:
            return client.get_run(run_id)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            raise TrackingError(f"{location(client.tracking_uri)} holds no run {run_id}") from error


def running_parent_id(client: MlflowClient, experiment_id: str, folder: str) -> str:
    """Returns the id of the parent run of the sweep in this folder. Raises TrackingError if it is not running."""
    for sweep in tagged_runs(client, experiment_id, "sweep", folder, "attributes.status = 'RUNNING'"):
        return sweep.info.run_id
    raise TrackingError(f"the sweep in {folder} has no running parent in the tracking store")


def tagged_runs(client: MlflowClient, experiment_id: str, tag: str, value: str, query: str) -> list[Run]:
    """Returns the runs that a query finds whose tag has this value, newest first.

    The value is compared here, since MLflow's queries can't express a text with both kinds of quotes.
    """
    found = search_runs(client, experiment_id, f"tags.{tag} != '' and {query}")
    return [run for run in found if run.data.tags[tag] == value]


class SweepJob(NamedTuple):
    """A run as one of a sweep's jobs. It may be a job of several sweeps, with another number and name in each.

    reused: whether it was made before the sweep.
    """

    run: Run
    number: int
    name: str
    overrides: list[str]
    reused: bool


def membership(parent_id: str, folder: Path, name: str, overrides: Sequence[str]) -> tuple[str, str]:
    """Returns the tag (name, value) that makes a run one of a sweep's jobs.

    folder: of the job; its name is the job's number.
    """
    number = int(folder.name) if folder.name.isdecimal() else 0
    return f"sweep.{parent_id}", json.dumps({"number": number, "name": name, "overrides": list(overrides)})


def finished_jobs(client: MlflowClient, experiment_id: str, parent_id: str) -> list[SweepJob]:
    """Returns the finished jobs of a sweep, in order of their numbers."""
    tag = f"sweep.{parent_id}"
    query = f"tags.`{tag}` != '' and attributes.status = 'FINISHED'"
    jobs = []
    for run in search_runs(client, experiment_id, query, "attributes.start_time ASC"):
        reused = run.data.tags.get("mlflow.parentRunId") != parent_id
        jobs.append(SweepJob(run, reused=reused, **json.loads(run.data.tags[tag])))
    return sorted(jobs, key=lambda job: job.number)


def search_runs(client: MlflowClient, experiment_id: str, query: str, *order: str) -> list[Run]:
    """Returns all runs that a query finds, newest first by default. They are fetched in pages to bound memory."""
    found: list[Run] = []
    page = None
    while page != "":
        runs = client.search_runs([experiment_id], query, order_by=list(order), max_results=PAGE, page_token=page)
        found, page = found + runs, runs.token or ""
    return found


def end_status(reason: str) -> tuple[str, str]:
    """Returns status and reason for a run that raised: FAILED, or KILLED if a signal is ending this process."""
    signal_name = processes.ended_by()
    return ("KILLED", signal_name) if signal_name is not None else ("FAILED", reason)


def end_run(client: MlflowClient, run_id: str, status: str, reason: str | None = None) -> None:
    """Ends a run, with the reason as a tag."""
    if reason is not None:
        client.set_tag(run_id, "end.reason", reason[:500])
    client.set_terminated(run_id, status)


def mark_running_jobs_killed(client: MlflowClient, experiment_id: str, parent_id: str, reason: str) -> None:
    """Marks the jobs of an ended sweep KILLED if their status is still RUNNING, on whichever host they were.

    A job that is in fact still running, on a host that can't be reached, sets its own status when it ends.
    """
    query = f"tags.`mlflow.parentRunId` = '{parent_id}' and attributes.status = 'RUNNING'"
    for job in search_runs(client, experiment_id, query):
        end_run(client, job.info.run_id, "KILLED", reason)
