"""A sweep's session, without Hydra: its parent run ends as the sweep ended, and the terminal says how far it is."""

import logging
from pathlib import Path

import pytest
from mlflow import MlflowClient

from initlab.sweep.launchers import Launcher
from initlab.sweep.session import SweepSession
from initlab.tracking.parent_run import ParentRun


def session(folder: Path, jobs: int = 0) -> SweepSession:
    parent = ParentRun(uri=f"sqlite:///{folder}/mlflow.db", experiment="any", folder=str(folder), name="sweep")
    return SweepSession(parent, Launcher("basic", "any.BasicLauncher"), folder=folder, jobs=jobs)


def status(of: SweepSession) -> tuple[str, str | None]:
    run = MlflowClient(of.parent.client.tracking_uri).get_run(of.parent.run_id)
    return run.info.status, run.data.tags.get("end.reason")


def test_it_finishes_when_all_jobs_have_run(tmp_path: Path) -> None:
    whole = session(tmp_path)
    with whole.running():
        assert status(whole) == ("RUNNING", None)
        whole.finished = True
    assert status(whole) == ("FINISHED", None)


def test_it_fails_if_it_ends_before_its_jobs(tmp_path: Path) -> None:
    """By an error that goes on up, or by Hydra's return when a job has failed."""
    broken, short = session(tmp_path), session(tmp_path)
    with pytest.raises(RuntimeError, match="lost"), broken.running():
        raise RuntimeError("lost")
    with short.running():
        pass
    assert status(broken) == status(short) == ("FAILED", "a job failed")


def test_time_left_is_that_of_complete_jobs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The first job, which does what all need, counts only until there are others; a resumed one never does."""
    sweep = session(tmp_path, jobs=4)
    with caplog.at_level(logging.INFO), sweep.running():
        for number, (resumed, seconds) in enumerate([(False, 100.0), (True, 1.0), (False, 10.0), (False, 10.0)]):
            sweep.start_job(number, resumed=resumed)
            if sweep._started is not None:
                sweep._started -= seconds
            sweep.end_job()
    lines = [record.message for record in caplog.records if record.message.startswith("job ")]
    assert lines == [
        "job 1 of 4",
        "job 2 of 4, about 5 min 0 s to go",
        "job 3 of 4, about 3 min 20 s to go",
        "job 4 of 4, about 10 s to go",
    ]
