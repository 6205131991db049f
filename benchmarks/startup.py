"""Waiting times: for help, for the first step, and for DVC to find that there is nothing to do."""

import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd


def table(rounds: int) -> pd.DataFrame:
    """One row per thing to wait for. Seconds are medians over rounds.

    Imports are what `-X importtime` counts for modules of other packages, in the same run as the first step.
    Raises ValueError if `dvc repro` has something to do.
    """
    if subprocess.run(["dvc", "status", "--quiet"]).returncode:
        raise ValueError("the pipeline is not up to date: dvc repro")
    train = [sys.executable, "train.py"]
    found: dict[str, list[float]] = {}
    with TemporaryDirectory() as folder:
        for number in range(rounds):
            first, imports = _first_step(Path(folder), number)
            took = {
                "`python train.py --help`": _seconds([*train, "--help"]),
                "`python train.py --cfg job`": _seconds([*train, "--cfg", "job"]),
                "from the command to the first step": first,
                "of which imports of other packages": imports,
                "`dvc status`": _seconds(["dvc", "status"]),
                "`dvc repro`, nothing to do": _seconds(["dvc", "repro"]),
            }
            for what, seconds in took.items():
                found.setdefault(what, []).append(seconds)
    return pd.DataFrame({"what": what, "s": statistics.median(seconds)} for what, seconds in found.items())


def _first_step(folder: Path, number: int) -> tuple[float, float]:
    """Returns the seconds until a run's first step, and how many of them imports took."""
    note = folder / "first.json"
    words = [f"hydra.run.dir={folder}/{number}", f"tracking.uri=sqlite:///{folder}/mlflow.db", "trainer=cpu"]
    words += [f"trainer.callbacks=[{{_target_: benchmarks.first_step.FirstStep, path: {note}}}]"]
    words += ["trainer.max_epochs=1", "+trainer.limit_train_batches=128"]
    begun = time.time()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "train.py", *words], check=True, capture_output=True, encoding="utf-8"
    )
    seen = json.loads(note.read_text(encoding="utf-8"))
    lines = re.findall(r"^import time: +(\d+) \| +\d+ \| +(\S+)$", done.stderr, re.MULTILINE)
    others = [int(own) for own, name in lines if name in seen["modules"]]
    return seen["time"] - begun, sum(others) / 1e6


def _seconds(words: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun
