"""initlab's module in Lightning's Trainer, but nothing recorded; statistics every so many steps."""

from pathlib import Path
from tempfile import TemporaryDirectory

from hydra import compose, initialize
from pytorch_lightning import Callback, LightningModule, Trainer

from benchmarks.peers import Clock
from initlab import experiment


class Ticks(Callback):
    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.clock.start()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.clock.tick(trainer.callback_metrics["val/accuracy"].item())


def train(epochs: int, replicas: int, clock: Clock, every: int = 10**9) -> None:
    words = ["trainer=cpu", f"replicas={replicas}", f"trainer.max_epochs={epochs}", f"stats.every={every}"]
    words += ["+trainer.enable_checkpointing=false", "trainer.callbacks=[]"]
    with initialize("../../conf", version_base="1.3"), TemporaryDirectory() as folder:
        trainer, network, images = experiment.build(compose("config", words), Path(folder))
        trainer.callbacks.append(Ticks(clock))  # type: ignore[attr-defined]
        trainer.fit(network, images)
