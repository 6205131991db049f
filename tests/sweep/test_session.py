"""A sweep's session, without Hydra: its parent run ends as the sweep ended, and the terminal says how far it is."""

import logging
import time
from pathlib import Path
from typing import Any

import pytest
from helpers import sweeps
from mlflow import MlflowClient

from initlab import report
from initlab.report import figures, findings, layout
from initlab.sweep.launchers import Launcher
from initlab.sweep.progress import LATE, _Progress
from initlab.sweep.session import SweepSession
from initlab.tracking import results
from initlab.tracking.parent_run import ParentRun
from initlab.tracking.run_logger import start_run


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


def record(of: SweepSession, init: str) -> None:
    """Records a made-up job of the sweep, as training would."""
    made = sweeps.run({"init": init})
    (job,) = made.runs.values()
    steps = made.replicas.drop(columns=["run", "init", "replica"]).groupby("step")
    where = {"uri": of.parent.client.tracking_uri, "experiment": "any", "sweep": str(of.folder)}
    what = {"name": f"init={init}", "config": job["config"], "overrides": [f"init={init}"]}
    with start_run(folder=of.folder / init[:9], **where, **what) as logger:
        logger.log_metrics({step: {name: rows[name].to_numpy() for name in rows.columns[1:]} for step, rows in steps})
        logger.log_results(job["theory"], *made.tensors.values())


@pytest.mark.parametrize(
    ("owner", "broken", "left_out"),
    [
        (figures, "overview", "Left out: the figure overview: ZeroDivisionError: none of this"),
        (findings, "lead", "Left out: the summary: ZeroDivisionError: none of this"),
        (layout.Layout, "ranking", "Left out: the table of results: ZeroDivisionError: none of this"),
        (report, "lay_out", "Left out: the report: ZeroDivisionError: none of this"),
    ],
)
def test_no_report_costs_a_sweep_its_results(
    owner: Any,
    broken: str,
    left_out: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("none of\nthis")

    whole = session(tmp_path)
    with caplog.at_level(logging.INFO), whole.running():
        record(whole, "kaiming")
        record(whole, "x" * 300)  # longer than a file's name may be
        monkeypatch.setattr(owner, broken, fail)
        whole.finished = True
    assert status(whole) == ("FINISHED", None)
    assert left_out in caplog.messages
    assert len(results.load(tmp_path).runs) == 2
    run = whole.parent.client.get_run(whole.parent.run_id)
    assert run.data.tags["results.sha256"] == results.digest(tmp_path)
    assert "Its jobs, side by side" in run.data.tags["mlflow.note.content"]
    kept = {item.path for item in whole.parent.client.list_artifacts(whole.parent.run_id)}
    assert ("comparison.csv" in kept) == ("index.html" in kept) == (owner is not report)


def test_progress_asks_for_what_ended_since_the_last_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And a while before: another host's clock may be behind. At the end it asks for all, whenever they were told."""
    parent = session(tmp_path).parent
    progress = _Progress(parent, 0)
    progress.begun = progress.since = 1  # the sweep has been running for long

    def end_job(name: str, minutes_ago: float) -> None:
        tags = {"mlflow.parentRunId": parent.run_id}
        job = parent.client.create_run(parent.experiment_id, run_name=name, tags=tags)
        parent.client.set_terminated(job.info.run_id, end_time=int(1000 * (time.time() - 60 * minutes_ago)))

    with caplog.at_level(logging.INFO):
        end_job("old", 600)
        progress.update()
        assert [job.name for job in parent.ended_jobs(progress.since)] == []
        end_job("behind", LATE / 60_000 - 1)
        progress.update()
        end_job("very late", 300)
        progress.update()
        progress.finish()
    assert [line.split()[1] for line in caplog.messages if "test/accuracy" in line] == ["old", "behind", "very"]
