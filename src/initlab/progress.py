"""How far an epoch is, on a terminal."""

import logging
from multiprocessing import parent_process

from pytorch_lightning import Callback, LightningModule, Trainer
from tqdm import tqdm

log = logging.getLogger(__name__)


class Progress(Callback):
    """A bar of the epoch's optimiser steps, for epochs that take longer than a second, gone when its line is printed.

    Only where standard error is a terminal that no other job writes to, and only where the log is told of epochs too.
    """

    def __init__(self) -> None:
        self.bar: tqdm | None = None
        self.first = 0  # step of the epoch

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.first = trainer.global_step
        self.bar = tqdm(
            total=trainer.datamodule.steps,  # type: ignore[attr-defined]
            desc=f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}",
            unit=" steps",
            delay=1,
            miniters=1,  # it is told once a block of steps
            leave=False,
            # None: where it is no terminal. With a parent, it is one job of several at once.
            disable=None if log.isEnabledFor(logging.INFO) and parent_process() is None else True,
        )

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        if self.bar is not None:
            self.bar.update(trainer.global_step - self.first - self.bar.n)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.close()
