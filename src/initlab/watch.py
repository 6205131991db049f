"""A sweep whose jobs run elsewhere, watched: a line for each job that ends."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from initlab import store, sweep

log = logging.getLogger(__name__)

INTERVAL = 2  # seconds between two looks
SKEW = 60_000  # ms that another host's clock may be behind


@contextmanager
def watching(parent: sweep.Sweep, jobs: int) -> Iterator[None]:
    """Says, while it lasts, how each job ends, and how long the others may take. jobs: how many there are, 0: unknown.

    It asks the tracking store, which knows wherever they run.
    """
    over, known = threading.Event(), _Known(parent, jobs)

    def watch() -> None:
        while not over.wait(INTERVAL):
            known.tell()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        known.tell()


class _Known:
    """Which ends have been told."""

    def __init__(self, parent: sweep.Sweep, jobs: int) -> None:
        self.parent, self.jobs = parent, jobs
        self.started = time.monotonic()
        self.since = int(1000 * time.time()) - SKEW
        before = parent.ended(0)
        self.finished = {job.run_id for job in before if job.status == "FINISHED"}
        self.told = {(job.run_id, job.time) for job in before}
        self.new: set[str] = set()  # jobs

    def tell(self) -> None:
        with suppress(store.TrackingError):  # a store that is away is asked again
            for job in self.parent.ended(self.since):
                if (job.run_id, job.time) not in self.told:
                    self.told.add((job.run_id, job.time))
                    self.new.add(job.run_id)
                    log.info(f"{self._far()}  {job.name}  {_result(job)}{self._left()}")

    def _far(self) -> str:
        done = len(self.new | self.finished)
        return f"{done} of {self.jobs}" if self.jobs else f"{done}"

    def _left(self) -> str:
        left = self.jobs - len(self.new | self.finished)
        if left <= 0 or len(self.new) < 2:  # the first waited for what all need
            return ""
        seconds = (time.monotonic() - self.started) / len(self.new) * left
        return f"  about {duration(seconds)} to go"


def _result(job: sweep.Job) -> str:
    if job.status != "FINISHED":
        return f"{job.status}: {(job.reason or '').partition(chr(10))[0]}"
    interval = "" if job.ci95 is None else f" ± {100 * job.ci95:.2f}"
    return f"test/accuracy {100 * (job.accuracy or 0):.2f}{interval} %"


def duration(seconds: float) -> str:
    """75 -> 1 min 15 s."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
