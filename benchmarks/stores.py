"""What trackers are measured with: real stores, a real run, its record made again, and thousands of copies of it."""

import json
import multiprocessing
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf
from sqlalchemy import NullPool, create_engine, text

from initlab.data.normalized_files import read_facts
from initlab.tracking import artifacts, provenance, results
from initlab.tracking.journal import Journal
from initlab.tracking.parent_run import ParentRun
from initlab.tracking.run_logger import start_run

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # the tests start the same servers

KINDS = "sqlite", "PostgreSQL", "server"
FORK = multiprocessing.get_context("fork")  # torch and MLflow are imported once, not by each process
COPIED = {  # table: {column: what a copy has in it}
    "runs": {
        "run_uuid": "copies.id",
        "name": "'init=kaiming,seed=' || copies.number",
        "start_time": "t.start_time + copies.number",
    },
    "metrics": {"run_uuid": "copies.id"},
    "latest_metrics": {"run_uuid": "copies.id"},
    "params": {"run_uuid": "copies.id"},
    "tags": {
        "run_uuid": "copies.id",
        "value": "CASE WHEN t.key = 'folder' THEN t.value || copies.number "
        "WHEN t.key = 'overrides' THEN '[\"init=kaiming\", \"seed=' || copies.number || '\"]' "
        "WHEN substr(t.key, 1, 6) = 'sweep.' THEN '{\"number\": ' || copies.number || "
        '\', "name": "init=kaiming,seed=\' || copies.number || '
        '\'", "overrides": ["init=kaiming", "seed=\' || copies.number || \'"]}\' ELSE t.value END',
    },
}


class Place(NamedTuple):
    """A store. uri: for runs.  database: the one behind it, for copies."""

    uri: str
    database: str


@contextmanager
def place(kind: str, folder: Path) -> Iterator[Place]:
    """Yields an empty store: `sqlite`, `PostgreSQL`, or an MLflow `server` on PostgreSQL. All sync writes to disk."""
    from helpers.servers import MlflowServer, free_port, postgres  # type: ignore[import-not-found]

    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        if kind == "sqlite":
            uri = database = f"sqlite:///{folder}/mlflow.db"
        else:
            uri = database = stack.enter_context(postgres(folder, "--fsync=on", "--max_connections=300"))
        if kind == "server":
            uri = stack.enter_context(MlflowServer(database, folder, free_port())).uri
        yield Place(uri, database)


def in_a_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls the function in a child process and returns what it returns.

    No connection to a store is left in this process, from which others are forked.
    """
    with FORK.Pool(1) as pool:
        return pool.apply(function, arguments)


def real_run(folder: Path, *words: str) -> Path:
    """Trains a run with `train.py`, with its own store beside it. Returns the run's folder."""
    words = ("trainer=cpu", *words, f"hydra.run.dir={folder}/run", f"tracking.uri=sqlite:///{folder}/mlflow.db")
    subprocess.run([sys.executable, "train.py", *words], check=True, stdout=subprocess.DEVNULL)
    return folder / "run"


def record(uri: str, model: Path, folder: Path, number: int, within: str | None = None) -> str:
    """Records in `folder` what the run in the folder `model` recorded, all at once. Returns the run's id.

    within: the folder of the sweep that it is a job of.
    """
    config: Any = OmegaConf.to_container(OmegaConf.load(model / artifacts.CONFIG))
    facts = read_facts(Path(config["data"]["folder"]))
    found = provenance.validated(json.loads((model / artifacts.PROVENANCE).read_text(encoding="utf-8")))
    with start_run(
        uri=uri,
        experiment="initlab",
        folder=folder,
        name=f"init=kaiming,seed={number}",
        config=config | {"seed": number},
        overrides=["init=kaiming", f"seed={number}"],
        sweep=within,
        tags={"init": "kaiming", "model": "shallow"},
    ) as run:
        run.log_provenance(found, {"name": "mnist", "source": "data.dvc", "facts": facts})
        run.log_metrics(Journal(model).history)
        run.set_tags(**{"weights.sha256": "0" * 64})
        for name in (artifacts.THEORY, results.REPLICAS, results.TENSORS):
            shutil.copy(model / name, folder)
        for name in (artifacts.CHECKPOINTS, artifacts.MODEL):
            shutil.copytree(model / name, folder / name)
    return run.run_id


def sweep_of(place: Place, model: Path, folder: Path, numbers: range) -> ParentRun:
    """Makes a sweep in `folder`: one recorded job, copies of it with these numbers, and all earlier copies."""
    parent = ParentRun(uri=place.uri, experiment="initlab", folder=str(folder), name="sweep")
    copies(place.database, record(place.uri, model, folder / "first", 0, str(folder)), parent.run_id, numbers)
    return parent


def copies(database: str, run_id: str, parent_id: str, numbers: range) -> None:
    """Copies the rows of a run, but not its files, as jobs of a sweep. All earlier copies become jobs of it too."""
    engine = create_engine(database, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("CREATE TEMPORARY TABLE copies (id VARCHAR(32), number INTEGER)"))
        if numbers:
            rows = [{"id": f"{number:032x}", "number": number} for number in numbers]
            connection.execute(text("INSERT INTO copies VALUES (:id, :number)"), rows)
        for table, values in COPIED.items():
            names = list(connection.execute(text(f"SELECT * FROM {table} LIMIT 0")).keys())
            chosen = ", ".join(values.get(name, f"t.{name}") for name in names)
            words = (
                f"INSERT INTO {table} ({', '.join(names)}) SELECT {chosen} FROM {table} t, copies WHERE run_uuid = :run"
            )
            connection.execute(text(words), {"run": run_id})
        words = "UPDATE tags SET value = :parent WHERE key = 'mlflow.parentRunId'"
        connection.execute(text(words), {"parent": parent_id})
        words = "UPDATE tags SET key = :tag WHERE substr(key, 1, 6) = 'sweep.'"
        connection.execute(text(words), {"tag": f"sweep.{parent_id}"})
        connection.execute(text("DROP TABLE copies"))
