"""A running sweep and its end: progress, results, report, status and exit code."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean

from initlab import report
from initlab.sweep.launchers import Launcher
from initlab.sweep.progress import duration, watching
from initlab.tracking import results, store
from initlab.tracking.parent_run import ParentRun

log = logging.getLogger(__name__)


class SweepSession:
    """The session of a sweep with a parent run.

    folder: where its results go.  with_report: whether a report is written beside them and logged.  jobs: their number,
    0 if not known.  extra: a file to log with the parent run, if it exists by then.  cwd: where the sweep was started.
    """

    def __init__(
        self,
        parent: ParentRun,
        launcher: Launcher,
        *,
        folder: Path,
        with_report: bool = True,
        jobs: int = 0,
        extra: Path | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.parent, self.launcher, self.folder = parent, launcher, folder
        self.with_report, self.jobs, self.extra, self.cwd = with_report, jobs, extra, cwd
        self.finished = False  # set when all jobs have run
        self._seconds: list[float] = []  # durations of complete jobs
        self._started: float | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within the context, jobs run. Then the sweep ends, however the body ends."""
        try:
            if not self.launcher.shows_jobs:
                with watching(self.parent, self.jobs):
                    yield
            else:
                yield
        finally:
            self.end()

    def start_job(self, number: int, *, resumed: bool) -> None:
        """Logs how far the sweep is. resumed: whether the job had begun before, so that its duration says little."""
        if self.jobs:
            complete = self._seconds[1:] or self._seconds  # the first job does work that the others share
            left = f", about {duration(mean(complete) * (self.jobs - number))} to go" if complete else ""
            log.info(f"job {number + 1} of {self.jobs}{left}")
        self._started = None if resumed else time.monotonic()

    def end_job(self) -> None:
        """Notes how long the job took."""
        if self._started is not None:
            self._seconds.append(time.monotonic() - self._started)

    def end(self) -> None:
        """Collects the results of all finished jobs, writes and logs the report, and ends the parent run.

        Raises SystemExit if the store does not answer.
        """
        if self.launcher.remote and not self.finished:
            self.launcher.stop()
        status, reason, lost = "FINISHED" if self.finished else "FAILED", "a job failed", None
        try:
            self._log_results()
            log.info(f"recorded as sweep {self.parent.run_id}\n{self.parent.viewing_instructions(self.cwd)}")
        except store.TrackingError as error:
            status, reason, lost = "FAILED", str(error), error
        except BaseException as error:
            status, reason = "FAILED", f"{type(error).__name__}: {error}"
            raise
        finally:
            try:
                self.parent.end(status, reason)
            except store.TrackingError as error:
                lost = error
        if lost is not None:
            sys.exit(f"error: {lost}; once it is back, the same command with resume=true ends the sweep")

    def _log_results(self) -> None:
        found = self.parent.collect_results()
        if found is None:
            return
        results.save(found, self.folder)
        self.parent.log_summary(found, finished=self.finished)
        names, lead, table, best = self._write_report(found)
        self.parent.log_files(self.folder / "report", names)
        self.parent.set_description(lead, table, results.digest(self.folder), best)
        if self.extra is not None and self.extra.exists():
            self.parent.log_files(self.extra.parent, [self.extra.name])

    def _write_report(self, found: results.Results) -> tuple[list[str], str, str, str | None]:
        """Returns the files of the report, and its summary: lead, table and best run. What fails is left out."""
        names: list[str] = []
        lead, table, best = "", "", None
        with report.optional("the report"):
            layout, seconds = report.lay_out(found), self.parent.job_seconds()
            with report.optional("the table of results"):
                log.info(f"\n{report.terminal_table(layout, seconds)}")
            if self.with_report:
                with report.optional("the report's page"):
                    names = report.write(layout, self.folder / "report")
                    if "index.html" in names:
                        log.info(f"report: {Path(self.folder, 'report', 'index.html').absolute()}")
            with report.optional("the summary"):
                lead, table = report.summary(layout, seconds)
            best = report.best_run(layout)
        return names, lead, table, best
