"""The journal of a run: its record on disk, in its folder, before it is sent to the tracking store.

metrics.jsonl    one line per step: {"step", "time" (ms since 1970), "values": {metric: [one value per replica]}}
run.json         {"run_id", "tags", "status", "reason", "started": by the process that works on it, "ended" (both ms
                 since 1970), "store": its URI, unless it has a password, "register": the registered model that its
                 model becomes a version of, "synced": whether the store has all of it}
"""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout

from initlab import atomic_files
from initlab.tracking.artifacts import CHECKPOINTS, METRICS, RUN


class BusyError(ValueError):
    """Another process is working on the run."""


class Entry(NamedTuple):
    """The measurements of one step. time: ms since 1970.  values: {metric: one value per replica (R,)}."""

    step: int
    time: int
    values: dict[str, np.ndarray]


class Journal:
    """The journal in `folder`. If there is one already, an interrupted run continues it.

    Raises ValueError if it can't be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries: list[Entry] = []
        self.history: dict[int, dict[str, np.ndarray]] = {}  # {step: {metric: one value per replica (R,)}}
        self.state: dict[str, Any] = {
            "run_id": None,
            "tags": {},
            "status": None,
            "reason": None,
            "started": None,
            "ended": None,
            "synced": False,
            "store": None,
            "register": None,
        }
        try:
            if (folder / RUN).exists():
                self.state |= json.loads((folder / RUN).read_text(encoding="utf-8"))
            for line in atomic_files.complete_lines(folder / METRICS):
                found = json.loads(line)
                values = {name: np.array(replicas, dtype=float) for name, replicas in found["values"].items()}
                self._add(Entry(found["step"], found["time"], values))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{folder}: {RUN} or {METRICS} was changed, and can't be read ({error})") from error

    def append(self, values: Mapping[int, Mapping[str, np.ndarray]]) -> None:
        """Adds {step: {metric: one value per replica (R,)}}, except for what is there already.

        Raises ValueError if a value is there already and differs: the run does not continue as it began. OSError if the
        disk is full.
        """
        now = int(1000 * time.time())
        entries = []
        for step, named in values.items():
            known = self.history.get(step, {})
            for name in named.keys() & known.keys():
                if not np.array_equal(known[name], named[name], equal_nan=True):
                    raise ValueError(
                        f"{name} of step {step} is {named[name]}; before the run was interrupted it was {known[name]}: "
                        "not the same machine and packages? A new run, without `resume`, starts afresh"
                    )
            new = {name: np.asarray(named[name]) for name in named if name not in known}
            if new:
                entries.append(Entry(step, now, new))
        lines = [
            json.dumps(
                {"step": entry.step, "time": entry.time, "values": {k: v.tolist() for k, v in entry.values.items()}}
            )
            for entry in entries
        ]
        if lines:
            atomic_files.append(self.folder / METRICS, "\n".join(lines) + "\n")
        for entry in entries:
            self._add(entry)

    def update(self, **state: Any) -> None:
        """Sets entries of run.json and writes it."""
        self.state |= state
        atomic_files.write(self.folder / RUN, json.dumps(self.state, indent=1).encode())

    def last_active(self) -> int | None:
        """Returns when something was last known to happen in the run (ms since 1970); None if nothing is."""
        times = [self.state["started"], self.state["ended"], *(entry.time for entry in self.entries[-1:])]
        return max((time for time in times if time is not None), default=None)

    def replicas(self) -> pd.DataFrame:
        """Returns the table of every value of every replica: one row per (step, replica), one column per metric.

        Values that were not measured are NaN.
        """
        tables = [
            pd.DataFrame({"step": step, "replica": range(len(next(iter(named.values())))), **named})
            for step, named in sorted(self.history.items())
        ]
        return pd.concat(tables, ignore_index=True)

    def last(self, metric: str) -> float:
        """Returns the mean over replicas of the last measurement of a metric. Raises KeyError if there is none."""
        measured = [step for step, named in self.history.items() if metric in named]
        if not measured:
            raise KeyError(metric)
        return float(np.mean(self.history[max(measured)][metric]))

    def _add(self, entry: Entry) -> None:
        self.entries.append(entry)
        self.history.setdefault(entry.step, {}).update(entry.values)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Within the context, no other process can work on the run in `folder`. Raises BusyError if one already does."""
    lock = FileLock(folder / "run.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise BusyError(f"another process is working on the run in {folder}") from None
    try:
        yield
    finally:
        lock.release()


def recorded_run_id(folder: Path) -> str | None:
    """Returns the id of the run in the folder, if there is one."""
    return Journal(folder).state["run_id"] if (folder / RUN).is_file() else None


def check_unused(folder: Path) -> None:
    """Raises ValueError if the folder already holds a run, or the jobs of a sweep."""
    if (folder / CHECKPOINTS).exists() or any(folder.glob(RUN)) or any(folder.glob(f"*/{RUN}")):
        raise ValueError(f"{folder} holds an earlier run; name another folder, or continue it with resume=true")
