"""How far an epoch is, on a terminal."""

import logging

from pytorch_lightning import Callback, LightningModule, Trainer
from tqdm import tqdm

log = logging.getLogger(__name__)


class Progress(Callback):
    """A bar of the epoch's optimiser steps, for epochs that take longer than a second, gone when its line is printed.

    Only where standard error is a terminal, and only where the log is told of epochs too.
    """

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.first = trainer.global_step
        self.bar = tqdm(
            total=trainer.datamodule.steps,  # type: ignore[attr-defined]
            desc=f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}",
            unit=" steps",
            delay=1,
            leave=False,
            disable=None if log.isEnabledFor(logging.INFO) else True,  # None: where it is no terminal
        )

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        self.bar.update(trainer.global_step - self.first - self.bar.n)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.bar.close()

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        self.bar.close()
