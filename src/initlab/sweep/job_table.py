"""A table of a sweep's jobs while worker processes of this machine train them."""

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
from hydra.core.utils import JobReturn, JobStatus
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from initlab.confidence_intervals import percent
from initlab.sweep.progress import duration

log = logging.getLogger(__name__)

COLUMNS = ("epoch", "val/accuracy", "val/loss", "diverged")


@dataclass
class Row:
    """What is known of a job. accuracy: on the validation images.  share: of its epochs that are done.  cells: text."""

    name: str
    accuracy: float
    share: float
    cells: dict[str, str]


class JobTable:
    """On a terminal, a table of all jobs, best first, which goes when they have ended. Elsewhere, lines.

    names: {number of a job: its name}.  epochs: a queue of (number, line, (epoch, of), {metric: (R,)}), with None for
    (epoch, of) after a test.
    """

    def __init__(self, names: Mapping[int, str], epochs: Any) -> None:
        self.rows = {number: Row(name, -inf, 0.0, {"epoch": "waiting"}) for number, name in names.items()}
        self.epochs, self.ended, self.started = epochs, 0, time.monotonic()
        self.live: Live | None = None

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Within the context, the table is shown, or lines are logged."""
        threading.Thread(target=self._read, daemon=True).start()
        console = Console()
        if not console.is_terminal:
            yield
            return
        with Live(console=console, transient=True, get_renderable=self.table) as self.live:
            yield
        self.live = None

    def end(self, number: int, done: JobReturn) -> None:
        """Notes that a job has ended."""
        row = self.rows[number]
        self.ended, row.share = self.ended + 1, 1.0
        outcome = row.cells.get("test", "reused")
        row.cells["epoch"] = "done"
        if done.status != JobStatus.COMPLETED:
            row.cells["epoch"] = outcome = f"FAILED: {str(done._return_value).partition(chr(10))[0]}"
        if self.live is None:
            log.info(f"{self.ended} of {len(self.rows)}  {row.name}  {outcome}{self._left()}")

    def update(self, number: int, line: str, epoch: tuple[int, int] | None, latest: Mapping[str, np.ndarray]) -> None:
        """Notes what a job has logged, after an epoch or after its test."""
        row = self.rows[number]
        if epoch is None:
            row.cells["test"] = line
            return
        row.share = epoch[0] / epoch[1] if epoch[1] > 0 else 0.0
        row.cells["epoch"] = f"{epoch[0]}/{epoch[1]}"
        if "val/loss" in latest:
            row.accuracy = float(latest["val/accuracy"].mean())
            row.cells["val/accuracy"] = percent(latest["val/accuracy"])
            row.cells["val/loss"] = f"{latest['val/loss'].mean():.4f}"
            row.cells["diverged"] = str(np.count_nonzero(~np.isfinite(latest["val/loss"])) or "")
        if self.live is None:
            log.info(f"{row.name}  {line}")

    def table(self) -> Table:
        """Returns the table as it is now."""
        table = Table("variant", *COLUMNS, box=None, caption=f"{self.ended} of {len(self.rows)} jobs{self._left()}")
        for row in sorted(self.rows.values(), key=lambda row: -row.accuracy):
            table.add_row(Text(row.name), *(Text(row.cells.get(column, "")) for column in COLUMNS))
        return table

    def _read(self) -> None:
        while True:
            self.update(*self.epochs.get())

    def _left(self) -> str:
        share = sum(row.share for row in self.rows.values()) / len(self.rows)
        seconds = (time.monotonic() - self.started) * (1 - share) / share if share else 0.0
        return f"  about {duration(seconds)} to go" if 0.05 < share < 1 else ""
