"""initlab in normal use: `python train.py`, with the Trainer, statistics, checkpoints and MLflow."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.peers import Clock


def train(epochs: int, replicas: int, clock: Clock, overrides: list[str] | None = None) -> None:
    """An epoch ends when its record is on disk. Its time is that since the end of the one before."""
    with TemporaryDirectory() as folder:
        words = [
            *(sys.executable, "train.py", "trainer=cpu", f"replicas={replicas}", f"trainer.max_epochs={epochs + 1}"),
            *(f"hydra.run.dir={folder}/run", f"tracking.uri=sqlite:///{folder}/mlflow.db"),
            *(overrides or []),
        ]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        lines = [
            json.loads(line) for line in Path(folder, "run", "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        ends = [line for line in lines if "val/accuracy" in line["values"]]
        for before, end in pairwise(ends):
            clock.add((end["time"] - before["time"]) / 1000, float(np.mean(end["values"]["val/accuracy"])))
