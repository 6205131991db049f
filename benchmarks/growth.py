"""How our own code scales with a sweep and its store: a job's record, the look-ups of `resume`, the sweep's end."""

import resource
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from omegaconf import OmegaConf

from benchmarks import stores
from initlab import report
from initlab.tracking import artifacts, results
from initlab.tracking.resume import find_resumable_run, find_resumable_sweep

KINDS = "sqlite", "server"
JOBS = 100, 1_000, 5_000
TIMES = 5  # repetitions of short measurements


def table(
    rounds: int, *, kinds: Sequence[str] = KINDS, jobs: Sequence[int] = JOBS, words: Sequence[str] = ()
) -> pd.DataFrame:
    """One row per (store, what), one column per number of finished jobs of a sweep: seconds, medians over rounds.

    words: overrides of the run that the jobs are copies of.
    """
    rows = []
    with TemporaryDirectory() as name:
        model = stores.real_run(Path(name, "model"), *words)
        for turn in range(rounds):
            for kind in kinds:
                folder = Path(name, f"{kind}{turn}")
                with stores.place(kind, folder) as place:
                    for fewer, number in zip((1, *jobs), jobs, strict=False):
                        found = stores.in_a_process(_measured, place, model, folder / f"{number}", range(fewer, number))
                        rows += [{"store": kind, "what": what, "jobs": number, "s": s} for what, s in found.items()]
    medians = pd.DataFrame(rows).groupby(["store", "what", "jobs"], sort=False)["s"].median()
    return medians.unstack("jobs").reset_index().rename(columns=lambda name: f"{name:,}" if name in jobs else name)


def _measured(place: stores.Place, model: Path, folder: Path, numbers: range) -> dict[str, float]:
    """Returns {what: seconds, or GB}, measured once these jobs are there in addition to the earlier ones."""
    words: Any = {"uri": place.uri, "experiment": "initlab"}
    parent = stores.sweep_of(place, model, folder, numbers)
    config: Any = OmegaConf.to_container(OmegaConf.load(model / artifacts.CONFIG))
    found = {
        "a job's record": _median(lambda: stores.record(place.uri, model, folder / f"{time.time()}", 0, str(folder))),
        "`resume=true`, a run": _median(partial(find_resumable_run, **words, config=config, run_id=None)),
        "`resume=true`, a sweep": _median(partial(find_resumable_sweep, **words, overrides=["seed=0"], run_id=None)),
    }
    since = time.perf_counter()
    gathered = parent.collect_results()
    assert gathered is not None
    results.save(gathered, folder)
    found["a sweep's end: results"] = time.perf_counter() - since
    since = time.perf_counter()
    layout = report.lay_out(gathered)
    report.terminal_table(layout, parent.job_seconds())
    parent.set_description(*report.summary(layout, parent.job_seconds()), results.digest(folder))
    found["a sweep's end: table, description"] = time.perf_counter() - since
    since = time.perf_counter()
    parent.log_files(folder / "report", report.write(layout, folder / "report"))
    found["a sweep's end: report"] = time.perf_counter() - since
    parent.end("FINISHED")
    found["memory by then, GB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return found


def _median(function: Callable[[], object]) -> float:
    taken = []
    for _ in range(TIMES):
        since = time.perf_counter()
        function()
        taken.append(time.perf_counter() - since)
    return statistics.median(taken)
