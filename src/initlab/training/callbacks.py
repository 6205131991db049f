"""Lightning callbacks: layer statistics, the record of metrics, one line per epoch, the progress bar."""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from multiprocessing import parent_process
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from tqdm import tqdm

from initlab.checks import check_int
from initlab.confidence_intervals import percent
from initlab.nn import layer_stats, mlp
from initlab.training.lightning_module import Network
from initlab.training.replica_group import ReplicaGroup

log = logging.getLogger(__name__)

UNITS = 10  # units of replica 0, whose first-layer weights are kept for the report's figures


class LayerStatistics(Callback):
    """Measures every layer before step 0, then every `every` optimiser steps, and after the last step.

    probe: number of validation images to measure on, the first ones, or all if there are fewer.  series: see `tensors`.
    Raises ValueError for a value out of range.
    """

    def __init__(self, every: int, probe: int) -> None:
        check_int("stats.every", every, least=1)
        check_int("stats.probe", probe, least=2)
        self.every, self.probe = every, probe
        self.series: dict[str, list[Tensor]] = defaultdict(list)
        self.images = self.labels = torch.empty(0)

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Takes the probe from the validation images, and lets the module know of these statistics."""
        assert isinstance(module, Network)
        module.statistics = self
        images, labels = trainer.datamodule.splits["validation"]  # type: ignore[attr-defined]
        self.images, self.labels = images[: self.probe].mT, labels[: self.probe]  # x (784, N), y (N,)

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._keep_weights(module)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: object) -> None:
        self._collect_histograms(module)

    def on_test_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Measures the trained networks. A run resumed after its last epoch has no end of training, hence this hook."""
        assert isinstance(module, Network)
        step = trainer.global_step
        module.workers.map(lambda group: self.measure(group, step), module.groups)
        self._collect_histograms(module)
        self._keep_weights(module)

    @torch.no_grad()
    def measure(self, group: ReplicaGroup, step: int) -> list[Tensor]:
        """Measures every statistic of a group before optimiser step `step`. Returns a copy of its weights (r, D, E)."""
        weights, biases, activation = group.network
        x, y = self.images, self.labels
        _, gradients, trace = mlp.loss_and_gradients(x, y, weights, biases, activation, group.module.loss)
        layers = [
            layer_stats.LayerTensors(z, a, gradient.z, W, gradient.W, activation.saturated(z))
            for z, a, W, gradient in zip(trace.z, trace.a[1:], weights, gradients, strict=True)
        ]
        group.pending.append((step, layer_stats.measure(layers) | group.take_train_loss()))
        group.histograms.append((step, [layer_stats.histogram(layer.a) for layer in layers[:-1]]))
        return [W.clone() for W in weights]

    def measure_update(self, group: ReplicaGroup, before: list[Tensor]) -> None:
        """Adds the update ratios of the step since the last measurement. before: weights (r, D, E) before that step."""
        _, values = group.pending[-1]
        for number, (old, new) in enumerate(zip(before, group.network[0], strict=True), start=1):
            values[f"layer{number}/update_ratio"] = layer_stats.update_ratio(old, new)

    def tensors(self) -> dict[str, Tensor]:
        """Returns the tensors that the figures of a run are drawn from.

        layer1/histogram, ...: counts of activations (T, bins) of each hidden layer, over all replicas, measured before
        the steps in `step` (T,).  layer1/weight: W (E + 1, units, inputs) of replica 0's first units, before each of E
        epochs and as trained.
        """
        # Tensors from a checkpoint are on the CPU, new ones on the device.
        return {name: torch.stack([tensor.cpu() for tensor in series]) for name, series in self.series.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"series": dict(self.series)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.series = defaultdict(list, state_dict["series"])

    def _collect_histograms(self, module: LightningModule) -> None:
        """Sums the counts over groups and devices. All devices have to call it."""
        assert isinstance(module, Network)
        for measured in zip(*(group.histograms for group in module.groups), strict=True):
            self.series["step"].append(torch.tensor(measured[0][0]))
            for number, counts in enumerate(zip(*(layers for _, layers in measured), strict=True), start=1):
                total = module.shard.all_reduce(torch.stack(counts).sum(0))
                self.series[f"layer{number}/histogram"].append(total)
        for group in module.groups:
            group.histograms.clear()

    def _keep_weights(self, module: LightningModule) -> None:
        assert isinstance(module, Network)
        self.series["layer1/weight"].append(module.weights[0][0, :UNITS].detach().clone())


class RecordMetrics(Callback):
    """Passes measurements, {step: {metric: value of each replica (R,)}}, to `record` after each epoch and the test.

    latest: the values of the last step, {metric: (R,)}, if anything was measured since the last call of `record`.
    """

    def __init__(self, record: Callable[[Mapping[int, Mapping[str, np.ndarray]]], None]) -> None:
        self.record = record
        self.latest: dict[str, np.ndarray] = {}

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._record(module)

    def on_test_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._record(module)

    def _record(self, module: LightningModule) -> None:
        assert isinstance(module, Network)
        measurements = module.take_measurements()
        self.record(measurements)
        self.latest = measurements[max(measurements)] if measurements else {}


class EpochLog(Callback):
    """Logs one line per epoch, from the values that `metrics` recorded; its record carries `epoch` and `latest`."""

    def __init__(self, metrics: RecordMetrics) -> None:
        self.metrics = metrics
        self.started, self.first_step = 0.0, 0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.global_step:
            log.info(f"going on with epoch {trainer.current_epoch + 1}")

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.started, self.first_step = time.perf_counter(), trainer.global_step

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        latest, seconds = self.metrics.latest, time.perf_counter() - self.started
        line = (
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {seconds:5.1f} s"
            f"  {(trainer.global_step - self.first_step) / seconds:5,.0f} steps/s"
        )
        if "val/loss" in latest:  # not after every epoch, if trainer.check_val_every_n_epoch is set
            line += (
                f"  val/loss {latest['val/loss'].mean():.4f}  val/accuracy {percent(latest['val/accuracy'])}"
                f"{_diverged(latest['val/loss'])}"
            )
        log.info(line, extra={"epoch": (trainer.current_epoch + 1, trainer.max_epochs), "latest": dict(latest)})

    def on_test_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        latest = self.metrics.latest
        line = f"test/accuracy {percent(latest['test/accuracy'])}{_diverged(latest['test/loss'])}"
        log.info(line, extra={"latest": dict(latest)})


class ProgressBar(Callback):
    """A bar of an epoch's optimiser steps. It appears after one second and disappears when the epoch ends.

    Shown only if standard error is a terminal that no other job writes to, and if epochs are logged.
    """

    def __init__(self) -> None:
        self.bar: tqdm | None = None
        self.first_step = 0

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.first_step = trainer.global_step
        if not log.isEnabledFor(logging.INFO) or parent_process() is not None:  # one of several parallel jobs
            return
        self.bar = tqdm(
            total=trainer.datamodule.steps,  # type: ignore[attr-defined]
            desc=f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}",
            unit=" steps",
            delay=1,
            miniters=1,  # it is updated once per block of steps
            leave=False,
            disable=None,  # shown only on a terminal
        )

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        if self.bar is not None:
            self.bar.update(trainer.global_step - self.first_step - self.bar.n)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def _diverged(losses: np.ndarray) -> str:
    """Formats how many losses (R,) are infinite or NaN, if any. They are included in the mean printed before."""
    diverged = np.count_nonzero(~np.isfinite(losses))
    return f"  {diverged} of {len(losses)} diverged" if diverged else ""
