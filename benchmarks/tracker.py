"""The throughput of a tracking store: whole records of runs, and points of metrics, from 1 to 16 processes at once."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import psutil
from mlflow import MlflowClient
from mlflow.entities import Metric

from benchmarks import stores
from initlab.tracking import run_logger, store

WRITERS = 1, 2, 4, 8, 16
SECONDS = 4.0  # per case
TRAINING = 7.0  # seconds of a run of the default size, alone on a core
PATIENCE = 300  # most seconds for a process to begin and to write once more
BUSY = 0.5  # load that a store should have, as a fraction of what it can take


def table(
    rounds: int,
    *,
    kinds: Sequence[str] = stores.KINDS,
    writers: Sequence[int] = WRITERS,
    seconds: float = SECONDS,
    words: Sequence[str] = (),
) -> pd.DataFrame:
    """One row per (store, what is written), one column per number of processes: how many per second.

    Values are medians over rounds. "jobs at once" is how many jobs of the default size, each on its own core, keep the
    store half busy.
    seconds: to measure each case for.  words: overrides of the run whose record is written.
    """
    rows = []
    with TemporaryDirectory() as name:
        model = stores.real_run(Path(name, "model"), *words)
        for turn in range(rounds):
            for kind in kinds:
                folder = Path(name, f"{kind}{turn}")
                with stores.place(kind, folder) as place:
                    stores.in_a_process(_made, place.uri)
                    for what in WRITES:
                        for several in writers:
                            found = _at_once(several, what, place.uri, model, folder, seconds)
                            rows.append({"store": kind, "what": what, "writers": several, **found})
    return _by_writers(pd.DataFrame(rows))


def _by_writers(measured: pd.DataFrame) -> pd.DataFrame:
    lines = []
    for (kind, what), found in measured.groupby(["store", "what"], sort=False):
        each = found.drop(columns=["store", "what"]).groupby("writers").median()
        line = {"store": kind, "what": what} | {f"{several}": rate for several, rate in each["a second"].items()}
        for several in (each.index[0], each.index[-1]):
            line[f"a write, ms, {several}"] = each.loc[several, "ms a write"]
        line["server's CPU, ms each"] = each["CPU, ms each"].iloc[-1]
        line["failed"] = found["errors"].sum()
        line["jobs at once"] = int(BUSY * each["a second"].max() * TRAINING) if what == RECORDS else ""
        lines.append(line)
    return pd.DataFrame(lines)


def _made(uri: str) -> None:
    store.connect(uri, "initlab")


def _records(uri: str, model: Path, folder: Path) -> Iterator[int]:
    for number in count():
        stores.record(uri, model, folder / str(number), number)
        yield 1


def _points(uri: str, size: int, write: Callable[[MlflowClient, str, list[Metric]], object]) -> Iterator[int]:
    client, experiment = store.connect(uri, "initlab")
    run_id = client.create_run(experiment).info.run_id
    for number in count():
        now = int(1000 * time.time())
        write(client, run_id, [Metric(f"m{step % 46}", 0.5, now, size * number + step) for step in range(size)])
        yield size


def _batches(uri: str, model: Path, folder: Path) -> Iterator[int]:
    return _points(uri, run_logger.BATCH, lambda client, run_id, points: client.log_batch(run_id, points))


def _singles(uri: str, model: Path, folder: Path) -> Iterator[int]:
    return _points(
        uri,
        1,
        lambda client, run_id, points: [client.log_metric(run_id, p.key, p.value, p.timestamp, p.step) for p in points],
    )


RECORDS = "runs, their whole record"
WRITES: dict[str, Callable[[str, Path, Path], Iterator[int]]] = {
    RECORDS: _records,
    "points, 1,000 at once": _batches,
    "points, one by one": _singles,
}


def _at_once(several: int, what: str, uri: str, model: Path, folder: Path, seconds: float) -> dict[str, float]:
    """Lets `several` processes write at once. Returns how many per second, ms per write, CPU ms of each, and errors."""
    barrier, queue = stores.FORK.Barrier(several), stores.FORK.Queue()
    processes = [
        stores.FORK.Process(
            target=_write, args=(what, uri, model, folder / f"{several}" / f"{number}", seconds, barrier, queue)
        )
        for number in range(several)
    ]
    spent = _cpu()
    for process in processes:
        process.start()
    found = [queue.get(timeout=seconds + PATIENCE) for _ in processes]
    for process in processes:
        process.join()
    rate = sum(sum(sizes) / sum(times) for sizes, times, _ in found)
    times = sorted(one for _, times, _ in found for one in times)
    written = sum(sum(sizes) + sizes[0] for sizes, _, _ in found)  # and the first write, which is not timed
    return {
        "a second": rate,
        "ms a write": 1000 * times[len(times) // 2],
        "CPU, ms each": 1000 * (_cpu() - spent) / written,
        "errors": sum(errors for _, _, errors in found),
    }


def _cpu() -> float:
    """Returns the CPU seconds of the servers: of all descendants of this process, since the writers have ended."""
    spent = 0.0
    for server in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            times = server.cpu_times()
            spent += times.user + times.system + times.children_user + times.children_system
    return spent


def _write(what: str, uri: str, model: Path, folder: Path, seconds: float, barrier: Any, queue: Any) -> None:
    """One of the writers. Puts ([written each time], [seconds of each time], number of errors) into the queue."""
    run_logger.log.setLevel("ERROR")
    sizes: list[int] = []
    times: list[float] = []
    errors, begun, until = 0, False, 0.0
    writing = WRITES[what](uri, model, folder)
    while not sizes or time.monotonic() < until:
        since = time.perf_counter()
        try:
            size = next(writing)
        except run_logger.AWAY:
            errors += 1
            writing = WRITES[what](uri, model, folder / f"again{errors}")
            continue
        if begun:
            sizes.append(size)
            times.append(time.perf_counter() - since)
        else:  # the first write opens the connection
            begun = True
            barrier.wait()
            until = time.monotonic() + seconds
    queue.put((sizes, times, errors))
