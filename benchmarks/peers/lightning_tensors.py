"""Lightning on a TensorDataset in memory: no transforms, no metrics object, no progress bar, no logger."""

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.peers import BATCH, CLASSES, HIDDEN, LEARNING_RATE, Clock, splits


class Ticks(Callback):
    """Ends an epoch when its validation and its checkpoint are done."""

    def __init__(self, clock: Clock, accuracy: str = "val_acc") -> None:
        self.clock, self.accuracy = clock, accuracy

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.clock.start()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.clock.tick(trainer.callback_metrics[self.accuracy].item())


class Classifier(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(784, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.model(x), y)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        self.log("val_acc", (self.model(x).argmax(1) == y).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=LEARNING_RATE)


def train(epochs: int, replicas: int, clock: Clock) -> None:
    x, y, x_val, y_val = splits()
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Ticks(clock)],
    )
    trainer.fit(
        Classifier(),
        DataLoader(TensorDataset(x, y), batch_size=BATCH, shuffle=True),
        DataLoader(TensorDataset(x_val, y_val), batch_size=1000),
    )
