"""Which run continues in a folder: a new one, the one that is resumed, or a job that its launcher starts again."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from initlab.tracking.parent_run import ParentRun
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
