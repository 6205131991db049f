"""Which run continues in a folder: a new one, the one that is resumed, or a job that its launcher starts again."""

import json
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from initlab import processes
from initlab.replay.safe_config import read_config
from initlab.tracking import provenance, store
from initlab.tracking.journal import Journal
from initlab.tracking.params import sha256
from initlab.tracking.parent_run import ParentRun
from initlab.tracking.recorded_run import read_run
from initlab.tracking.run_logger import RunLogger, start_run

CONFIG = {"seed": 0}


@contextmanager
def run(place: Path, name: str, **options: Any) -> Iterator[RunLogger]:
    words = {"uri": f"sqlite:///{place}/mlflow.db", "experiment": "any", "config": CONFIG} | options
    with start_run(**words, folder=place / name, name=name) as logger:
        yield logger


def interrupt(place: Path, name: str, **options: Any) -> str:
    """The id of a run that raised."""
    with pytest.raises(RuntimeError, match="interrupted"), run(place, name, **options) as logger:
        raise RuntimeError("interrupted")
    return logger.run_id


def test_an_interrupted_run_is_resumed(tmp_path: Path) -> None:
    first = interrupt(tmp_path, "a")
    with run(tmp_path, "a", resume=True) as again:
        assert again.run_id == first
        assert not again.finished
    found = again.client.get_run(first)
    assert found.info.status == "FINISHED"
    assert "end.reason" not in found.data.tags


def test_a_finished_run_is_left_alone(tmp_path: Path) -> None:
    with run(tmp_path, "a") as first:
        pass
    ended = first.client.get_run(first.run_id).info.end_time
    with run(tmp_path, "a", resume=True) as again:
        assert again.finished
    assert again.client.get_run(first.run_id).info.end_time == ended


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    interrupt(tmp_path, "a")
    with pytest.raises(ValueError, match="holds an earlier run; name another folder"), run(tmp_path, "a"):
        pass


def test_another_configuration_is_not_resumed(tmp_path: Path) -> None:
    interrupt(tmp_path, "a")
    with (
        pytest.raises(ValueError, match="of another configuration; resume needs the same command"),
        run(tmp_path, "a", config={"seed": 1}, resume=True),
    ):
        pass


def test_a_job_that_is_started_again_continues_its_run(tmp_path: Path) -> None:
    """In the same sweep; in another one the folder is in use."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    for sweep in "one", "two":
        ParentRun(uri=uri, experiment="any", folder=sweep, name=sweep)
    first = interrupt(tmp_path, "0", sweep="one")
    with run(tmp_path, "0", sweep="one") as again:
        assert again.run_id == first
    with pytest.raises(ValueError, match="holds an earlier run"), run(tmp_path, "0", sweep="two"):
        pass


def test_a_run_that_its_folder_does_not_know_continues(tmp_path: Path) -> None:
    """The process was lost between the two: the store has the run, and the folder no journal."""
    first = interrupt(tmp_path, "a")
    (tmp_path / "a" / "run.json").unlink()
    with run(tmp_path, "a", resume=True) as again:
        assert again.run_id == first


def test_a_configuration_comes_back_to_the_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is hashed, and read again to be replayed: as UTF-8, with lines that end in \\n, on every system."""
    monkeypatch.setattr("os.linesep", "\r\n")
    config = {"seed": 0, "data": {"folder": "C:\\Users\\Jürgen\\Übung 1", "note": "one\ntwo\r\nthree"}}
    with run(tmp_path, "a", config=config) as logger:
        logger.log_json(
            "provenance.json", provenance.current({"splits": {"train": {"sha256": "0"}}}, torch.device("cpu"))
        )
        logger.log_metrics({0: {"val/loss": np.array([1.0, 2.0])}})
        logger.log_results({}, {"any": torch.zeros(1)})
    found = read_run(f"sqlite:///{tmp_path}/mlflow.db", logger.run_id)
    assert sha256(found.config) == found.tags["config.sha256"]
    assert read_config(found.config) == config
    assert (tmp_path / "a" / "config.yaml").read_bytes() == found.config.encode()
    assert b"\r" not in (tmp_path / "a" / "replicas.csv").read_bytes()


# What a run began with


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of this package, which stands for it."""
    shutil.copytree(provenance.PACKAGE, tmp_path / "initlab")
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path / "initlab")
    return tmp_path / "initlab"


def interrupt_recorded(place: Path, **other: dict[str, str]) -> str:
    """The id of a run that raised after it had recorded its provenance, of all files, as earlier versions did."""
    names = [path.relative_to(provenance.PACKAGE).as_posix() for path in provenance.PACKAGE.rglob("*.py")]
    origin = {"code": provenance.code(names), "packages": provenance.packages(), "data": {"train": "0"}}
    first = interrupt(place, "a")
    (place / "a" / "provenance.json").write_text(
        json.dumps(origin | {"machine": {"device": "cpu"}} | other), encoding="utf-8"
    )
    return first


@pytest.mark.parametrize("name", ["tracking/ui.py", "report/page.py", "sweep/session.py", "processes.py"])
def test_code_that_bears_on_no_number_may_change(name: str, package: Path, tmp_path: Path) -> None:
    first = interrupt_recorded(tmp_path)
    with (package / name).open("a", encoding="utf-8") as file:
        file.write("# a comment\n")
    with run(tmp_path, "a", resume=True) as again:
        assert again.run_id == first


@pytest.mark.parametrize("name", ["nn/mlp.py", "workers.py"])
def test_code_that_bears_on_numbers_may_change_if_allowed(name: str, package: Path, tmp_path: Path) -> None:
    first = interrupt_recorded(tmp_path)
    with (package / name).open("a", encoding="utf-8") as file:
        file.write("# a comment\n")
    refusal = rf'began with other code \(code: {name}: recorded \w+, here \w+\); .* "allow=\[code\]"'
    for allow in ([], ["packages", "data"]):
        expected = refusal.replace("[code", f"[{','.join([*allow, 'code'])}")
        with (
            pytest.raises(ValueError, match=expected),
            run(tmp_path, "a", resume=True, allow=allow),
        ):
            pass
    with run(tmp_path, "a", resume=True, allow=["code"]) as again:
        assert again.run_id == first
    tags = again.client.get_run(first).data.tags
    assert tags["resumed.with.code"].startswith(f"code: {name}: recorded ")


def test_packages_that_bear_on_numbers_may_change_if_allowed(tmp_path: Path) -> None:
    interrupt_recorded(tmp_path, packages=provenance.packages() | {"torch": "1.0", "mlflow": "1.0"})
    refusal = r'began with other packages \(packages: torch: recorded 1.0, here [^,]*\); .* "allow=\[packages\]"'
    with pytest.raises(ValueError, match=refusal), run(tmp_path, "a", resume=True):
        pass
    with run(tmp_path, "a", resume=True, allow=["packages"]) as again:
        pass
    assert "resumed.with.packages" in again.client.get_run(again.run_id).data.tags


def test_packages_that_only_draw_or_record_may_change(tmp_path: Path) -> None:
    others = {"matplotlib": "1.0", "mlflow": "1.0", "dvc": "1.0", "safetensors": "0.1"}
    first = interrupt_recorded(tmp_path, packages=provenance.packages() | others)
    with run(tmp_path, "a", resume=True) as again:
        assert again.run_id == first


# How runs end, and how long they took


def test_a_signal_is_forgotten_when_the_next_run_begins(tmp_path: Path) -> None:
    """In a worker of joblib, which lives on: the next job's error is its own."""
    with pytest.raises(SystemExit) as ended, run(tmp_path, "a") as first:
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 143
    assert processes.ended_by() == "SIGTERM"
    second = interrupt(tmp_path, "b")
    found = [first.client.get_run(run_id) for run_id in (first.run_id, second)]
    assert [(one.info.status, one.data.tags["end.reason"]) for one in found] == [
        ("KILLED", "SIGTERM"),
        ("FAILED", "RuntimeError: interrupted"),
    ]


HOUR = 3_600_000  # ms


def grow_older(place: Path, name: str) -> None:
    """Moves all that is known of a run an hour back."""
    with sqlite3.connect(place / "mlflow.db") as database:
        database.execute(f"UPDATE runs SET start_time = start_time - {HOUR} WHERE name = '{name}'")
    path = place / name / "run.json"
    state = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(
        json.dumps(state | {key: state[key] - HOUR for key in ("started", "ended") if state[key]}), encoding="utf-8"
    )


def test_the_time_that_a_run_was_idle_is_not_counted(tmp_path: Path) -> None:
    """Twice interrupted, and an hour idle each time; the second time by kill -9, so that it recorded no end."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    parent = ParentRun(uri=uri, experiment="any", folder="sweep", name="sweep")
    job = interrupt(tmp_path, "0", sweep="sweep")
    grow_older(tmp_path, "0")
    interrupt(tmp_path, "0", sweep="sweep")
    Journal(tmp_path / "0").update(status=None, ended=None)
    grow_older(tmp_path, "0")
    with run(tmp_path, "0", sweep="sweep") as again:
        assert again.run_id == job
    found = parent.client.get_run(job)
    assert found.info.end_time - found.info.start_time > 2 * HOUR
    assert 2 * HOUR <= int(found.data.tags["idle_ms"]) < 2 * HOUR + 60_000
    parent.jobs = store.finished_jobs(parent.client, parent.experiment_id, parent.run_id)
    assert 0 <= parent.job_seconds()["0"] < 60


# A sweep among others


def finish(place: Path, name: str, accuracy: list[float], loss: list[float], **options: Any) -> None:
    """A job, with these results of its replicas after step 10."""
    with run(place, name, sweep="sweep", **options) as logger:
        logger.log_metrics({0: {"layer1/act_std": np.ones(len(loss))}})
        reached = {"val/accuracy": accuracy, "val/loss": loss, "test/accuracy": accuracy}
        logger.log_metrics({10: {metric: np.array(values) for metric, values in reached.items()}})
        logger.log_results({}, {"step": torch.arange(2)})


def test_sweeps_can_be_sorted_and_searched(tmp_path: Path) -> None:
    """By the results of their best job, by numbers of jobs and replicas, and by what their jobs share."""
    parent = ParentRun(uri=f"sqlite:///{tmp_path}/mlflow.db", experiment="any", folder="sweep", name="sweep")
    shared = {"seed": 0, "model": {"hidden": [50, 50]}}
    finish(tmp_path, "good", [0.9, 0.92], [0.3, 0.2], config=shared | {"init": "kaiming"})
    finish(tmp_path, "bad", [0.1, 0.1], [np.nan, np.inf], config=shared | {"init": "normal"})
    finish(tmp_path, "one", [0.5], [1.0], config=shared | {"init": "xavier"})
    found = parent.collect_results()
    assert found is not None
    parent.log_summary(found, finished=False)
    data = parent.client.get_run(parent.run_id).data
    half = 12.706 * 0.01  # t(1 degree of freedom, 97.5 %) times the standard error
    assert data.metrics == pytest.approx(
        {
            **{"jobs": 3, "replicas": 5, "diverged": 2},
            **{"test/accuracy": 0.91, "val/accuracy": 0.91, "val/loss": 0.25},
            **{"test/accuracy.ci95": half, "val/accuracy.ci95": half, "val/loss.ci95": 5 * half},
        },
        rel=1e-4,
    )
    assert data.params == {}  # they can't be changed, and a resumed sweep may have jobs that don't share them
    parent.log_summary(found, finished=True)
    parent.log_summary(found, finished=True)  # again, if the store was lost between this and the sweep's end
    query = "params.`model.hidden.1` = '50' and metrics.diverged > 1"
    (again,) = parent.client.search_runs([parent.experiment_id], query, order_by=["metrics.`val/accuracy` DESC"])
    assert again.info.run_id == parent.run_id
    assert again.data.params == {"seed": "0", "model.hidden.0": "50", "model.hidden.1": "50"}
