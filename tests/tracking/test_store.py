"""Stores that are away, slow, locked, shared: what a run has to tell reaches them, once."""

import re
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import Train, command, environment, started, wait_for
from helpers.servers import MlflowServer, free_port, postgres
from mlflow import MlflowClient
from mlflow.entities import Run
from sqlalchemy import NullPool, create_engine, text

from initlab import cli
from initlab.sweep import launchers
from initlab.sweep.session import SweepSession
from initlab.tracking import store
from initlab.tracking.journal import Journal
from initlab.tracking.parent_run import ParentRun
from initlab.tracking.run_logger import RunLogger, start_run

CONFIG = {"seed": 0, "replicas": 2}


def values(steps: range) -> dict[int, dict[str, np.ndarray]]:
    """Two replicas' loss at each step."""
    return {step: {"loss": np.array([1 / (step + 1), 2 / (step + 1)])} for step in steps}


def test_a_deleted_experiment_is_named(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client, experiment = store.connect(uri, "gone")
    client.delete_experiment(experiment)
    with pytest.raises(store.TrackingError, match="gone is deleted; bring it back with `mlflow experiments restore"):
        store.connect(uri, "gone")


@pytest.mark.parametrize("name", ['Teacher\'s "files"', "100% #a $b :c", "me@home", "Schüler"])
def test_a_project_of_any_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep and its job are recorded, interrupted, found again and resumed; and their files come back."""
    place = tmp_path / name
    place.mkdir()
    monkeypatch.chdir(place)
    uri = f"sqlite:///{place}/mlflow.db"
    sweep = {"uri": uri, "experiment": "any", "folder": str(place / "sweep"), "name": "sweep"}
    job = {"uri": uri, "experiment": "any", "folder": place / "sweep" / "0", "name": "job", "config": CONFIG}
    parent = ParentRun(**sweep)
    with pytest.raises(RuntimeError, match="lost"), start_run(**job, sweep=str(place / "sweep")) as first:
        raise RuntimeError("lost")
    parent.end("FAILED")
    (place / "sweep" / "0" / "run.json").unlink()
    again = ParentRun(**sweep, resume=True)
    assert again.run_id == parent.run_id
    with start_run(**job, sweep=str(place / "sweep"), resume=True) as second:
        second.log_text("replicas.csv", "here")
    assert second.run_id == first.run_id
    assert second.journal.state["store"] == uri
    assert Path(second.client.download_artifacts(second.run_id, "replicas.csv")).read_text(encoding="utf-8") == "here"
    made = {path.name for path in place.iterdir() if not path.name.startswith("mlflow.db-")}
    assert made == {"mlflow.db", "mlflow.db.lock", "mlruns", "sweep"}


def test_a_folder_with_an_at_sign_is_no_password() -> None:
    for uri in ("sqlite:////me@home/mlflow.db", "sqlite:///me@home/mlflow.db", "http://host:5000"):
        assert store.public_uri(uri) == uri
    assert store.public_uri("postgresql://me:secret@host/runs") is None
    assert store.redact("at http://me:secret@host: no") == "at http://host: no"


def test_options_are_no_part_of_a_files_name(tmp_path: Path) -> None:
    client, experiment = store.connect(f"sqlite:///{tmp_path}/mlflow.db?timeout=60", "any")
    client.create_run(experiment)
    assert {path.name for path in tmp_path.iterdir()} >= {"mlflow.db", "mlflow.db.lock"}
    assert not [path for path in tmp_path.iterdir() if "?" in path.name]


@pytest.mark.parametrize(
    "uri",
    ["sqlite://", "sqlite:///:memory:", "sqlite:////what?/mlflow.db", "sqlite:////what?/a=b", "sqlite:/mlflow.db"],
)
def test_an_address_that_names_no_file_is_refused(uri: str) -> None:
    with pytest.raises(store.TrackingError, match=r"tracking.uri is 'sqlite:.*'; expected sqlite:///FILE"):
        store.connect(uri, "any")


@pytest.mark.faults(
    "processes connect to a database (sqlite) in use, write, and leave",
    "all that any of them wrote is there",
)
def test_a_store_survives_others_that_come_and_go(tmp_path: Path) -> None:
    """A process that connects again while it writes, as a sweep does for each job; others write, and leave, meanwhile.

    Were the database opened and closed other than by sqlite, its locks would be gone, and with them what is written.
    """
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    code = (
        "import sys; from initlab.tracking import store; "
        "client, experiment = store.connect(sys.argv[1], 'initlab'); "
        "client.set_terminated(client.create_run(experiment).info.run_id)"
    )
    first, experiment = store.connect(uri, "initlab")
    kept = [first.create_run(experiment).info.run_id]
    for _ in range(3):
        client, _ = store.connect(uri, "initlab")
        kept.append(client.create_run(experiment).info.run_id)
        command([sys.executable, "-c", code, uri], tmp_path)
        first.set_tag(kept[-1], "seen", "yes")
    script = "import sys; from mlflow import MlflowClient; [MlflowClient(sys.argv[1]).get_run(i) for i in sys.argv[2:]]"
    command([sys.executable, "-c", script, uri, *kept], tmp_path)
    assert len(first.search_runs([experiment])) == 7


JOB = """
import sys
import numpy as np
from pathlib import Path

from initlab.tracking.run_logger import start_run

uri, folder, points = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
with start_run(uri=uri, experiment="initlab", folder=folder, name="job", config={"seed": 0}) as run:
    for start in range(0, points, 100):
        run.log_metrics({step: {"loss": np.array([float(step)])} for step in range(start, start + 100)})
    run.log_text("replicas.csv", run.journal.replicas().to_csv())
"""


@pytest.mark.faults(
    "eight jobs at once on a fresh store (sqlite), each with 10,000 points of a metric",
    "the store is made once, under a lock; every point is there once",
    cost=5,
)
def test_parallel_jobs_on_a_fresh_store(tmp_path: Path, trial: int, thorough: bool) -> None:
    """All at once: one makes the store, all write to it."""
    points = 10_000 if thorough else 1_000
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    jobs = [
        subprocess.Popen([sys.executable, "-c", JOB, uri, str(tmp_path / str(number)), str(points)], env=environment())
        for number in range(8)
    ]
    assert [job.wait(600) for job in jobs] == [0] * 8
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        found = database.execute(
            "SELECT count(*), count(DISTINCT step), min(step), max(step), sum(value) FROM metrics GROUP BY run_uuid"
        ).fetchall()
    assert found == [(points, points, 0, points - 1, points * (points - 1) / 2)] * 8
    client = MlflowClient(uri)
    assert [run.info.status for run in client.search_runs(["1"])] == ["FINISHED"] * 8


def test_points_told_twice_are_there_once(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with start_run(uri=uri, experiment="any", folder=tmp_path / "run", name="run", config=CONFIG) as run:
        run.log_metrics(values(range(3)) | {3: {"loss": np.array([np.nan, np.inf])}})
    again = RunLogger(store.connect_existing(uri), "here", tmp_path / "run")
    again.sync()
    for name in ("loss", "loss.ci95"):
        assert [point.step for point in again.client.get_metric_history(run.run_id, name)] == [0, 1, 2, 3]


def test_what_was_logged_before_is_not_logged_again(tmp_path: Path) -> None:
    """A resumed run measures again what it had measured after its last checkpoint: the same, or it is another run."""
    journal = Journal(tmp_path)
    journal.append(values(range(3)))
    journal = Journal(tmp_path)
    journal.append(values(range(5)))
    assert [entry.step for entry in Journal(tmp_path).entries] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match=r"loss of step 4 is .*; before the run was interrupted it was"):
        journal.append({4: {"loss": np.array([0.2, 0.5])}})


@pytest.mark.faults(
    "a run is resumed, or synced, while it goes on",
    "refused: one process at a time works on a run",
)
def test_one_process_at_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = {"uri": f"sqlite:///{tmp_path}/mlflow.db", "experiment": "any", "folder": tmp_path / "run", "name": "run"}
    with start_run(**words, config=CONFIG) as run:
        run.log_metrics(values(range(3)))
        with (
            pytest.raises(ValueError, match="another process is working on the run in"),
            start_run(**words, config=CONFIG, resume=True),
        ):
            pass
        cli.main(["sync", str(tmp_path / "run"), "--tracking-uri", words["uri"]])
        assert "skipped: another process is working on the run in" in capsys.readouterr().out
        run.log_text("replicas.csv", "")
    assert run.client.get_run(run.run_id).info.status == "FINISHED"


@pytest.mark.parametrize(
    ("name", "text"), [("run.json", "{"), ("metrics.jsonl", "[1]\n"), ("metrics.jsonl", '{"a": 1}\n')]
)
def test_a_journal_that_somebody_changed_is_named(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"run.json or metrics.jsonl was changed, and can't be read"):
        Journal(tmp_path)


@pytest.mark.faults(
    "another program holds the database locked (sqlite)",
    "the run goes on; its record waits in its folder and is sent when the lock is gone",
)
def test_a_locked_database(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with start_run(uri=uri, experiment="any", folder=tmp_path / "run", name="run", config=CONFIG) as run:
        other = sqlite3.connect(tmp_path / "mlflow.db")
        other.execute("BEGIN EXCLUSIVE")
        run.log_metrics(values(range(3)))
        assert "does not answer" in caplog.text
        other.close()
        run.log_metrics(values(range(3, 6)))
    history = run.client.get_metric_history(run.run_id, "loss")
    assert {point.step: point.value for point in history} == pytest.approx({s: 1.5 / (s + 1) for s in range(6)})
    assert len(history) == 6
    assert run.client.get_run(run.run_id).info.status == "FINISHED"


# A real server, on PostgreSQL


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[MlflowServer, str]]:
    folder = tmp_path_factory.mktemp("server")
    with postgres(folder) as database, MlflowServer(database, folder, free_port()) as server:
        yield server, database


def recorded(server: MlflowServer, seed: int) -> Run:
    (run,) = MlflowClient(server.uri).search_runs(["1"], f"tags.seed = '{seed}'")
    return run


def assert_all_is_told(server: tuple[MlflowServer, str], seed: int) -> None:
    """Every point that the run's folder has is in PostgreSQL, once, and nothing else; and so are end and artifacts."""
    run = recorded(server[0], seed)
    journal = Journal(Path(run.data.tags["folder"]))
    measured = Counter((name, entry.step) for entry in journal.entries for name in entry.values)
    assert set(measured.values()) == {1}
    with create_engine(server[1], poolclass=NullPool).connect() as connection:
        rows = connection.execute(
            text("SELECT key, step FROM metrics WHERE run_uuid = :run"), {"run": run.info.run_id}
        ).all()
    told = Counter((key, step) for key, step in rows)
    assert told == measured + Counter((f"{name}.ci95", step) for name, step in measured)
    assert run.info.status == "FINISHED"
    assert run.data.tags["weights.sha256"]
    client = MlflowClient(server[0].uri)
    artifacts = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert artifacts >= {"checkpoints", "config.yaml", "provenance.json", "replicas.csv", "theory.json"}


SHORT = ("trainer=cpu", "replicas=2", "trainer.max_epochs=12", "tracking=server")


@pytest.mark.faults(
    "an MLflow server, on PostgreSQL, is killed while two runs log to it, and started again",
    "training goes on; metrics wait in the runs' folders, in order, and are sent when it is back",
    cost=2,
)
def test_a_server_that_goes_away_and_comes_back(server: tuple[MlflowServer, str], project: Path, trial: int) -> None:
    seeds = 2 * trial, 2 * trial + 1
    words = (*SHORT, f"tracking.uri={server[0].uri}")
    with (
        started(*words, f"seed={seeds[0]}", cwd=project) as first,
        started(*words, f"seed={seeds[1]}", cwd=project) as second,
    ):
        wait_for("epoch 1/", first)
        wait_for("epoch 1/", second)
        server[0].kill()
        output = wait_for("does not answer", first)
        server[0].start()
        output += first.communicate(timeout=120)[0]
        second.communicate(timeout=120)
        assert (first.returncode, second.returncode) == (0, 0)
    assert "training goes on, and its record waits in" in output
    for seed in seeds:
        assert_all_is_told(server, seed)


@pytest.mark.faults(
    "the server goes away while a run logs to it, and does not come back",
    "the run ends with exit code 1 and says where its record waits; later, `initlab sync`",
    cost=2,
)
def test_a_server_that_comes_back_later(server: tuple[MlflowServer, str], project: Path, trial: int) -> None:
    seed = 1000 + trial
    try:
        with started(*SHORT, f"tracking.uri={server[0].uri}", f"seed={seed}", cwd=project) as process:
            wait_for("epoch 1/", process)
            server[0].kill()
            output, _ = process.communicate(timeout=120)
            assert process.returncode == 1
        assert "Traceback" not in output
        (folder,) = re.findall(r"once the store is back: initlab sync (\S+)", output)
    finally:
        server[0].start()
    assert recorded(server[0], seed).info.status == "RUNNING"
    words = ["initlab", "sync", folder]
    assert command(words, project).stdout == f"synced: {folder} as run {recorded(server[0], seed).info.run_id}\n"
    assert_all_is_told(server, seed)
    assert command(words, project).stdout == "nothing to sync: the store has all of 1 runs\n"


@pytest.mark.faults(
    "the server is down when a run starts", "refused within seconds, in one line; nothing is left behind"
)
def test_a_server_that_is_down(train: Train, project: Path) -> None:
    before = sorted(project.iterdir())
    done = train("tracking=server", f"tracking.uri=http://127.0.0.1:{free_port()}", "hydra.run.dir=down", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: tracking.uri: no MLflow store answers at 127.0.0.1:")
    assert done.stderr.count("\n") == 1
    assert sorted(project.iterdir()) == before


@pytest.mark.faults(
    "the server goes away before a sweep's results are recorded", "one line says so; `resume=true` ends the sweep"
)
def test_a_server_that_is_lost_at_the_end_of_a_sweep(server: tuple[MlflowServer, str], tmp_path: Path) -> None:
    parent = ParentRun(uri=server[0].uri, experiment="initlab", folder=str(tmp_path), name="lost")
    server[0].kill()
    try:
        with pytest.raises(SystemExit, match=r"does not answer: .*; once it is back, the same command with resume"):
            SweepSession(parent, launchers.Launcher("basic", "any.BasicLauncher"), folder=tmp_path).end()
    finally:
        server[0].start()
