"""Progress of a sweep whose jobs run in other processes: one line per job that ends."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from initlab.tracking import store
from initlab.tracking.parent_run import EndedJob, ParentRun

log = logging.getLogger(__name__)

INTERVAL = 2  # seconds between two queries
# ms that a job's end may be known late: the clock of its host may be behind, and its artifacts are sent first
LATE = 300_000


@contextmanager
def watching(parent: ParentRun, jobs: int) -> Iterator[None]:
    """Within the context, logs how each job ends, and how long the others may take.

    It asks the tracking store, which knows this wherever jobs run. jobs: their number, 0 if not known.
    """
    over, progress = threading.Event(), _Progress(parent, jobs)

    def watch() -> None:
        while not over.wait(INTERVAL):
            progress.update()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        progress.finish()


class _Progress:
    """Logs each job that has ended, once."""

    def __init__(self, parent: ParentRun, jobs: int) -> None:
        self.parent, self.jobs = parent, jobs
        self.started = time.monotonic()
        self.begun = self.since = _now() - LATE
        before = parent.ended_jobs(0)
        self.finished = {job.run_id for job in before if job.status == "FINISHED"}
        self.logged = {(job.run_id, job.time) for job in before}
        self.new: set[str] = set()  # ids of jobs that have ended since the start

    def update(self) -> None:
        """Logs the jobs that have ended since the last answer of the store."""
        with suppress(store.TrackingError):  # if the store does not answer, it is asked again later
            asked = _now()
            ended = self.parent.ended_jobs(self.since)
            self.since = asked - LATE
            for job in ended:
                if (job.run_id, job.time) not in self.logged:
                    self.logged.add((job.run_id, job.time))
                    self.new.add(job.run_id)
                    log.info(f"{self._done()}  {job.name}  {_result(job)}{self._left()}")

    def finish(self) -> None:
        """Logs the jobs that have ended and were not logged, however late the store was told."""
        self.since = self.begun
        self.update()

    def _done(self) -> str:
        done = len(self.new | self.finished)
        return f"{done} of {self.jobs}" if self.jobs else f"{done}"

    def _left(self) -> str:
        left = self.jobs - len(self.new | self.finished)
        if left <= 0 or len(self.new) < 2:  # the first takes longer, since it imports the libraries
            return ""
        seconds = (time.monotonic() - self.started) / len(self.new) * left
        return f"  about {duration(seconds)} to go"


def _now() -> int:
    """Returns the time in ms since 1970."""
    return int(1000 * time.time())


def _result(job: EndedJob) -> str:
    if job.status != "FINISHED":
        return f"{job.status}: {(job.reason or '').partition(chr(10))[0]}"
    interval = "" if job.ci95 is None else f" ± {100 * job.ci95:.2f}"
    return f"test/accuracy {100 * (job.accuracy or 0):.2f}{interval} %"


def duration(seconds: float) -> str:
    """Formats seconds: 75 -> 1 min 15 s."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
