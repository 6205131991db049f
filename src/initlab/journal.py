"""A run as its folder has it, on disk before the tracking store is told: what may be lost is never only there.

metrics.jsonl    a line a step: {"step", "time" (ms since 1970), "values": {metric: [value of each replica]}}
run.json         {"run_id", "tags", "status", "reason", "ended" (ms since 1970), "store": its URI, if that holds no
                 password, "register": the registered model its model becomes a version of, "told": whether the store
                 has it all}
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

from initlab import files

METRICS, RUN = "metrics.jsonl", "run.json"


class BusyError(ValueError):
    """Another process is at the run."""


class Entry(NamedTuple):
    """What was measured at one step. time: ms since 1970.  values: {metric: value of each replica (R,)}."""

    step: int
    time: int
    values: dict[str, np.ndarray]


class Journal:
    """The journal in `folder`, as far as it goes: a run that was interrupted goes on in it.

    Raises ValueError if what is there is no journal.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries: list[Entry] = []
        self.history: dict[int, dict[str, np.ndarray]] = {}  # {step: {metric: value of each replica (R,)}}
        self.facts: dict[str, Any] = {
            "run_id": None,
            "tags": {},
            "status": None,
            "reason": None,
            "told": False,
            "store": None,
            "register": None,
        }
        try:
            if (folder / RUN).exists():
                self.facts |= json.loads((folder / RUN).read_text())
            for line in files.whole_lines(folder / METRICS):
                found = json.loads(line)
                values = {name: np.array(replicas, dtype=float) for name, replicas in found["values"].items()}
                self._add(Entry(found["step"], found["time"], values))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{folder}: {RUN} or {METRICS} was changed, and can't be read ({error})") from error

    def append(self, values: Mapping[int, Mapping[str, np.ndarray]]) -> None:
        """Adds {step: {metric: value of each replica (R,)}}; what is there already is not added again.

        Raises ValueError if it is there with another value: then the run is not what it was when it was interrupted.
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
            files.append(self.folder / METRICS, "\n".join(lines) + "\n")
        for entry in entries:
            self._add(entry)

    def note(self, **facts: Any) -> None:
        """Sets facts of run.json."""
        self.facts |= facts
        files.write(self.folder / RUN, json.dumps(self.facts, indent=1).encode())

    def replicas(self) -> pd.DataFrame:
        """Every value of every replica: one row a (step, replica), one column a metric; empty where not measured."""
        tables = [
            pd.DataFrame({"step": step, "replica": range(len(next(iter(named.values())))), **named})
            for step, named in sorted(self.history.items())
        ]
        return pd.concat(tables, ignore_index=True)

    def last(self, metric: str) -> float:
        """The mean over replicas of a metric, when it was measured last. Raises KeyError if it never was."""
        measured = [step for step, named in self.history.items() if metric in named]
        if not measured:
            raise KeyError(metric)
        return float(np.mean(self.history[max(measured)][metric]))

    def _add(self, entry: Entry) -> None:
        self.entries.append(entry)
        self.history.setdefault(entry.step, {}).update(entry.values)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """While it lasts, no other process is at this run. Raises BusyError if one is already."""
    lock = FileLock(folder / "run.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise BusyError(f"another process is at the run in {folder}") from None
    try:
        yield
    finally:
        lock.release()


def run_in(folder: Path) -> str | None:
    """The id of the run that the folder holds, if it holds one."""
    return Journal(folder).facts["run_id"] if (folder / RUN).is_file() else None


def refuse_used(folder: Path) -> None:
    """Raises ValueError if the folder has a run, or the jobs of a sweep, in it already."""
    if (folder / "checkpoints").exists() or any(folder.glob(RUN)) or any(folder.glob(f"*/{RUN}")):
        raise ValueError(f"{folder} holds an earlier run; name another folder, or go on with it: resume=true")
