"""A whole sweep of every variant with error bars, beside single runs of the stock template."""

import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

VARIANTS = len(list(Path("conf/init").glob("*.yaml")))
EPOCHS = 8


def table() -> pd.DataFrame:
    """Seconds of each, measured once, including start-up, training, record and report."""
    with TemporaryDirectory() as folder:
        sweep = [sys.executable, "train.py", "-m", "init=glob(*)", "replicas=8", f"trainer.max_epochs={EPOCHS}"]
        sweep += [f"hydra.sweep.dir={folder}/sweep", f"tracking.uri=sqlite:///{folder}/mlflow.db"]
        ours = _seconds(sweep)
    stock = [sys.executable, "-m", "benchmarks.peers", "lightning_stock", f"--epochs={EPOCHS}"]
    rows = [
        {"what": f"`train.py -m 'init=glob(*)'`: {VARIANTS} variants, 8 replicas each, with its report", "s": ours},
        {"what": "stock Lightning: 3 variants, one network each", "s": sum(_seconds(stock) for _ in range(3))},
    ]
    return pd.DataFrame(rows)


def _seconds(words: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begun
