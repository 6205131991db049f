"""Whole sweeps on this machine under three launchers: one job after the other, in workers, in joblib's processes."""

import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
from omegaconf import OmegaConf

LAUNCHERS = ("basic", "batched", "joblib")
RATES = "0.01,0.02,0.05,0.1,0.2,0.5,1"
SCHEMES = f"init={OmegaConf.load('params.yaml').init}"  # those of the pipeline
SWEEPS = {
    "2 jobs": ["init=kaiming,shifted_relu"],
    "22 jobs, as in `dvc repro`": [SCHEMES, "model=shallow,deep", "hydra.callbacks.sweep.report=false"],
    "77 jobs, 11 schemes by 7 learning rates, 2 epochs": [
        SCHEMES,
        f"optimizer.lr={RATES}",
        "trainer.max_epochs=2",
    ],
}


def table(rounds: int) -> pd.DataFrame:
    """One row per sweep and launcher: the median over rounds, in which launchers alternate, of all it takes."""
    found: dict[tuple[str, str], list[float]] = {}
    for number in range(rounds):
        for sweep in SWEEPS:
            for launcher in LAUNCHERS[:: 1 if number % 2 else -1]:
                found.setdefault((sweep, launcher), []).append(_seconds(SWEEPS[sweep], launcher))
    rows = []
    for sweep in SWEEPS:
        serial = statistics.median(found[sweep, "basic"])
        for launcher in LAUNCHERS:
            seconds = statistics.median(found[sweep, launcher])
            rows.append({"sweep": sweep, "launcher": launcher, "s": seconds, "times basic": seconds / serial})
    return pd.DataFrame(rows)


def _seconds(words: list[str], launcher: str) -> float:
    Path("multirun").mkdir(exist_ok=True)
    with TemporaryDirectory(dir=Path("multirun").absolute()) as folder:
        places = [f"hydra.sweep.dir={folder}/sweep", f"tracking.uri=sqlite:///{folder}/mlflow.db"]
        command = [sys.executable, "train.py", "-m", *words, "trainer=cpu", f"hydra/launcher={launcher}", *places]
        begun = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return time.perf_counter() - begun
