"""initlab's module in Lightning's Trainer, with nothing recorded, and statistics every `every` steps."""

from pathlib import Path
from tempfile import TemporaryDirectory

from hydra import compose, initialize

from benchmarks.peers import Clock
from benchmarks.peers.lightning_tensors import Ticks
from initlab.training.build import build
from initlab.training.callbacks import RecordMetrics
from initlab.workers import one_thread_each


def train(epochs: int, replicas: int, clock: Clock, every: int = 10**9) -> None:
    words = ["trainer=cpu", f"replicas={replicas}", f"trainer.max_epochs={epochs}", f"stats.every={every}"]
    words += ["+trainer.enable_checkpointing=false", "trainer.callbacks=[]"]
    with initialize("../../conf", version_base="1.3"), TemporaryDirectory() as folder:
        trainer, network, data, statistics, _ = build(compose("config", words), Path(folder))
        trainer.callbacks += [statistics, RecordMetrics(lambda measurements: None)]  # type: ignore[attr-defined]
        trainer.callbacks.append(Ticks(clock, "val/accuracy"))  # type: ignore[attr-defined]
        with one_thread_each() as network.workers:
            trainer.fit(network, data)
