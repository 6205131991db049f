"""The overhead of a job under each of Hydra's launchers, with two jobs at a time if that can be configured."""

import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

# {launcher: (few jobs, many jobs, overrides)}. Fewer if each job starts a process: submitit_local starts all at once.
LAUNCHERS = {
    "basic": (8, 24, []),
    "batched": (8, 24, ["hydra.launcher.workers=2"]),
    "joblib": (8, 24, ["hydra.launcher.n_jobs=2"]),
    "ray": (8, 24, ["+hydra.launcher.ray.init.num_cpus=2"]),
    "submitit_local": (2, 8, []),
    "submitit_slurm": (2, 8, ["hydra.launcher.array_parallelism=2"]),
}
JOB = ["trainer=cpu", "replicas=2", "trainer.max_epochs=1", "+trainer.limit_train_batches=128"]


def table(rounds: int) -> pd.DataFrame:
    """One row per launcher, including Slurm if it is there. Medians over rounds.

    A line through few jobs and many jobs gives the time of one more job, and the time that is left without any.
    """
    names = [name for name in LAUNCHERS if name != "submitit_slurm" or _has_slurm()]
    found: dict[tuple[str, int], list[float]] = {}
    for _ in range(rounds):
        for name in names:
            few, many, words = LAUNCHERS[name]
            for jobs in (few, many):
                found.setdefault((name, jobs), []).append(_seconds(name, jobs, words))
    rows = []
    for name in names:
        few, many, _ = LAUNCHERS[name]
        first, second = (statistics.median(found[name, jobs]) for jobs in (few, many))
        one = (second - first) / (many - few)
        rows.append({"launcher": name, "jobs": f"{few}, {many}", "s to start": first - few * one, "s a job": one})
    return pd.DataFrame(rows)


def _has_slurm() -> bool:
    return shutil.which("sinfo") is not None and not subprocess.run(["sinfo"], capture_output=True).returncode


def _seconds(launcher: str, jobs: int, words: list[str]) -> float:
    """Returns how long a sweep over `jobs` seeds takes, without a report."""
    Path("multirun").mkdir(exist_ok=True)
    with TemporaryDirectory(dir=Path("multirun").absolute()) as folder:  # Slurm's nodes see it
        places = [f"hydra.sweep.dir={folder}/sweep", f"tracking.uri=sqlite:///{folder}/mlflow.db"]
        sweep = [sys.executable, "train.py", "-m", f"seed=range({jobs})", *JOB, *places]
        sweep += [f"hydra/launcher={launcher}", *words, "hydra.callbacks.sweep.report=false"]
        begun = time.perf_counter()
        subprocess.run(
            sweep,
            check=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return time.perf_counter() - begun
