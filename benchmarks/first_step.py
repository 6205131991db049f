"""A callback that notes when the first step begins, and which modules are imported by then."""

import json
import sys
import time
from pathlib import Path

from pytorch_lightning import Callback, LightningModule, Trainer


class FirstStep(Callback):
    """Writes {"time": s since 1970, "modules": names} to `path` when a batch starts."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        ours = ("initlab", "benchmarks", "__main__", "__mp_main__")
        modules = [name for name in sys.modules if name.partition(".")[0] not in ours]
        self.path.write_text(json.dumps({"time": time.time(), "modules": modules}), encoding="utf-8")
