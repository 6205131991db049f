"""Lightning's room: the module around the hand-written network, and its checkpoints."""

import hashlib
import io
import logging
import pickle
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from initlab import files, init, mlp, process, stats, theory
from initlab.refusals import refuse_optimizer, refuse_other
from initlab.share import Share

log = logging.getLogger(__name__)

# Notes on devices and fonts are no news to the reader of a run.
for noisy in ("pytorch_lightning", "lightning_fabric", "matplotlib"):
    logging.getLogger(noisy).setLevel(logging.WARNING)
warnings.filterwarnings("ignore", ".*LeafSpec", category=FutureWarning)
warnings.filterwarnings("ignore", ".*`srun` command is available", category=UserWarning)  # where Slurm is installed
warnings.filterwarnings("ignore", "Checkpoint directory .* exists", category=UserWarning)  # of a resumed run

PRECISIONS = "highest", "high", "medium"
UNITS = 10  # of replica 0, whose first-layer weights are kept to be looked at

Record = Callable[[dict[int, dict[str, np.ndarray]]], None]


class Network(LightningModule):
    """`replicas` networks from one init scheme, trained side by side on the same batches.

    hidden: widths of the hidden layers.  scheme, activation, loss: what the config groups init and loss make.
    optimizer: parameters -> any torch.optim optimiser that treats every entry alike.
    every: optimiser steps between two measurements.  probe: validation images that are measured on.
    record: called with {step: {metric: value of each replica (R,)}} at the end of each epoch and of each stage.
    Raises ValueError for a value out of range or of another kind, before anything is drawn.
    """

    def __init__(
        self,
        *,
        hidden: Sequence[int],
        replicas: int,
        seed: int,
        scheme: init.Scheme,
        activation: mlp.Activation,
        loss: mlp.Loss,
        optimizer: Callable[[list[nn.Parameter]], Optimizer],
        every: int,
        probe: int,
        record: Record = lambda values: None,
    ) -> None:
        super().__init__()
        init.check(hidden, replicas=replicas, seed=seed)
        init.whole("stats.every", every, least=1)
        init.whole("stats.probe", probe, least=2)
        for name, value, kind in [("scheme", scheme, init.Scheme), ("activation", activation, mlp.Activation)]:
            refuse_other(name, value, kind)
        refuse_other("loss", loss, mlp.Loss)
        refuse_optimizer(optimizer)
        self.automatic_optimization = False
        self.hidden, self.replicas, self.seed, self.scheme = list(hidden), replicas, seed, scheme
        self.activation, self.loss, self.optimizer = activation, loss, optimizer
        self.every, self.probe, self.record = every, probe, record
        self.share = Share(replicas)
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        self._pending: list[tuple[int, dict[str, Tensor]]] = []  # on the device until the epoch ends
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._series: dict[str, list[Tensor]] = defaultdict(list)

    def configure_model(self) -> None:
        """Draws the networks, on each device all of them: Lightning calls it once the number of inputs is known."""
        if len(self.weights):
            return
        self.share = Share(self.replicas, self.trainer.global_rank, self.trainer.world_size)
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        widths = [data.inputs, *self.hidden, self.loss.outputs]
        self.activation = self.activation.to(self.trainer.strategy.root_device)
        weights, biases = init.draw(self.scheme, widths, replicas=self.replicas, seed=self.seed)
        self.scheme.calibrate(weights, data.splits["train"][0].mT, self.activation)
        self.weights.extend(weights)
        self.biases.extend(biases)

    def configure_optimizers(self) -> Optimizer:
        """Of this device's replicas: of parameters that lie where theirs do."""
        if self.share.mine(self.weights[0]) is self.weights[0]:
            return self.optimizer(list(self.parameters()))
        return self.optimizer([nn.Parameter(self.share.mine(whole.detach())) for whole in self.parameters()])

    @property
    def network(self) -> tuple[list[Tensor], list[Tensor], mlp.Activation]:
        """Weights, biases and activation of this device's replicas; without a trainer, of all."""
        mine = self.share.mine
        return [mine(W) for W in self.weights], [mine(b) for b in self.biases], self.activation.each(mine)

    def gradients(self, x: Tensor, y: Tensor) -> tuple[Tensor, list[mlp.Gradient], mlp.Trace]:
        """The maths, on one batch: see `mlp.loss_and_gradients`."""
        weights, biases, activation = self.network
        return mlp.loss_and_gradients(x, y, weights, biases, activation, self.loss)

    @torch.no_grad()
    def training_step(self, block: Iterator[tuple[Tensor, Tensor]], batch_idx: int) -> None:
        """Takes one optimiser step for every batch x (784, B), y (B,) of a block. Nothing here waits for the device."""
        descend = self._descent()
        step = first = self.global_step
        for x, y in block:
            before = self._measure(step) if step % self.every == 0 else None
            self._add("train/loss", descend(x, y), 1)
            if before is not None:
                self._measure_update(before)
            step += 1
        # Lightning's wrapper around an optimiser would count, but takes longer for it than a small network's step.
        self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.increment_by(step - first)

    def _descent(self) -> Callable[[Tensor, Tensor], Tensor]:
        """What takes an optimiser step on a batch x (784, B), y (B,), and returns the mean losses (R,) before it."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, Optimizer)
        network, loss, share = self.network, self.loss, self.share
        if _is_plain(optimizer) and share.by_replica:
            return lambda x, y: mlp.descend(x, y, *network, loss, lr=optimizer.param_groups[0]["lr"])

        def step(x: Tensor, y: Tensor) -> Tensor:
            all_images = len(y)
            x, y = share.images(x, y)
            losses, gradients, _ = mlp.loss_and_gradients(x, y, *network, loss)
            found = [gradient.W for gradient in gradients] + [gradient.b for gradient in gradients]
            losses, *found = share.mean([losses, *found], len(y) / all_images)
            for parameter, gradient in zip(optimizer.param_groups[0]["params"], found, strict=True):
                parameter.grad = gradient
            optimizer.step()
            return losses

        return step

    def validation_step(self, chunks: Iterable[tuple[Tensor, Tensor]], batch_idx: int) -> None:
        self._evaluate("val", chunks)

    def test_step(self, chunks: Iterable[tuple[Tensor, Tensor]], batch_idx: int) -> None:
        self._evaluate("test", chunks)

    def on_train_epoch_start(self) -> None:
        self._started, self._first = time.perf_counter(), self.global_step

    def on_train_start(self) -> None:
        self._keep_signals()
        if self.global_step == 0:
            self._keep_weights()
        else:
            log.info(f"going on with epoch {self.current_epoch + 1}")

    def on_validation_epoch_end(self) -> None:
        values = self._means("val")
        self._pending.append((self.global_step, values))
        # for the checkpoints
        self.log_dict({name: value.mean() for name, value in values.items()}, batch_size=1, sync_dist=True)

    def on_test_epoch_end(self) -> None:
        self._pending.append((self.global_step, self._means("test")))
        last = self._flush()
        log.info(f"test/accuracy {_percent(last['test/accuracy'])}{_diverged(last['test/loss'])}")

    def on_train_epoch_end(self) -> None:
        last = self._flush()
        seconds = time.perf_counter() - self._started
        epochs = f"{self.current_epoch + 1}/{self.trainer.max_epochs}"
        log.info(
            f"epoch {epochs}  {seconds:5.1f} s  {(self.global_step - self._first) / seconds:5,.0f} steps/s"
            f"  val/loss {last['val/loss'].mean():.4f}  val/accuracy {_percent(last['val/accuracy'])}"
            f"{_diverged(last['val/loss'])}"
        )

    def on_train_end(self) -> None:
        self._gather()

    def on_test_start(self) -> None:
        """Measures the networks as trained: here, since a run resumed after its last epoch has no end of training."""
        self._keep_signals()
        self._measure(self.global_step)
        self._keep_weights()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what was summed and kept so far to the weights, the optimiser and Lightning's counts."""
        self._gather()
        sums = {name: self.share.all(total) for name, total in self._sums.items()}
        checkpoint["initlab"] = {"sums": sums, "counts": self._counts, "series": dict(self._series)}
        _of_optimizers(checkpoint, self.share.all)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes this device's part of what all had, however many there were then."""
        kept = checkpoint["initlab"]
        _of_optimizers(checkpoint, self.share.mine)
        device = self.trainer.strategy.root_device
        self._sums = {name: self.share.mine(total).to(device) for name, total in kept["sums"].items()}
        self._counts = kept["counts"]
        self._series.update(kept["series"])

    def tensors(self) -> dict[str, Tensor]:
        """What pictures of a run are made of, once it is trained.

        layer1/histogram, ...: counts of activations (T, bins) of each hidden layer, replicas taken together, measured
        before the steps in `step` (T,).  layer1/weight: W (2, units, inputs) of replica 0's first units, as drawn and
        as trained.
        """
        return {name: torch.stack(series).cpu() for name, series in self._series.items()}

    def theory(self) -> dict[str, float]:
        """{"layer1/act_std": ...}: what `theory.moments` expects of the networks as drawn, on the probe."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        fans = pairwise([data.inputs, *self.hidden, self.loss.outputs])
        layers = [
            theory.Layer(
                fan_in,
                fan_out,
                None if self.scheme.unit_variance else self.scheme.variance(fan_out, fan_in),
                self.scheme.bias_variance(fan_out, fan_in),
            )
            for fan_in, fan_out in fans
        ]
        square_norms = data.splits["validation"][0][: self.probe].double().square().sum(1)
        values: dict[str, float] = {}
        for number, expected in enumerate(theory.moments(layers, square_norms.cpu(), self.activation), start=1):
            names = ["preact_mean", "preact_std", "act_mean", "act_std"]
            if number < len(layers):
                names += ["inactive_fraction", "backward_ratio"]
            values |= {f"layer{number}/{name}": float(getattr(expected, name)) for name in names}
        return values

    def digest(self) -> str:
        """SHA-256 of all weights and biases, as their bytes lie in memory, in the order of `parameters()`."""
        sha = hashlib.sha256()
        for parameter in self.parameters():
            sha.update(parameter.detach().cpu().contiguous().numpy().tobytes())
        return sha.hexdigest()

    def _measure(self, step: int) -> list[Tensor]:
        """Every statistic on the probe, as the networks stand before `step`; returns the weights as they are then."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        images, labels = data.splits["validation"]
        _, gradients, trace = self.gradients(images[: self.probe].mT, labels[: self.probe])
        weights = self.network[0]
        layers = [
            stats.Layer(z, a, gradient.z, W, gradient.W)
            for z, a, W, gradient in zip(trace.z, trace.a[1:], weights, gradients, strict=True)
        ]
        self._pending.append((step, stats.measure(layers) | self._means("train")))
        self._series["step"].append(torch.tensor(step))
        for number, layer in enumerate(layers[:-1], start=1):
            self._series[f"layer{number}/histogram"].append(self.share.over_replicas(stats.histogram(layer.a)))
        return [W.clone() for W in weights]

    @torch.no_grad()
    def _gather(self) -> None:
        """Brings the replicas of all devices together on each."""
        for parameter in self.parameters():
            mine = self.share.mine(parameter)
            if mine is not parameter:
                parameter.copy_(self.share.all(mine))

    def _keep_signals(self) -> None:
        if self.share.devices > 1:
            process.take_sigterm_back()

    def _keep_weights(self) -> None:
        self._series["layer1/weight"].append(self.weights[0][0, :UNITS].detach().clone())

    def _measure_update(self, before: list[Tensor]) -> None:
        """Adds what the step just taken did to the weights to the measurement made before it."""
        _, values = self._pending[-1]
        for number, (old, new) in enumerate(zip(before, self.network[0], strict=True), start=1):
            values[f"layer{number}/update_ratio"] = stats.update_ratio(old, new)

    @torch.no_grad()
    def _evaluate(self, stage: str, chunks: Iterable[tuple[Tensor, Tensor]]) -> None:
        network = self.network
        for x, y in chunks:
            z = mlp.forward(x, *network).z[-1]
            losses, _ = self.loss(z, y)
            self._add(f"{stage}/loss", losses.sum(-1), len(y))
            self._add(f"{stage}/accuracy", (self.loss.predict(z) == y).float().sum(-1), len(y))

    def _add(self, name: str, values: Tensor, count: int) -> None:
        self._sums[name] = self._sums[name] + values if name in self._sums else values
        self._counts[name] = self._counts.get(name, 0) + count

    def _means(self, stage: str) -> dict[str, Tensor]:
        """Takes out the means, since they were last taken, of what was added under `stage`: {name: (R,)}, of this
        device's replicas.
        """
        names = [name for name in self._sums if name.startswith(stage)]
        return {name: self._sums.pop(name) / self._counts.pop(name) for name in names}

    def _flush(self) -> dict[str, np.ndarray]:
        """Hands what is pending to `record`, after one exchange between devices and one transfer from this one; returns
        the last step's values, of all replicas.
        """
        tensors = [value for _, values in self._pending for value in values.values()]
        arrays = iter(self.share.all(torch.stack(tensors, 1)).T.cpu().double().numpy())
        merged: dict[int, dict[str, np.ndarray]] = {}
        for step, values in self._pending:
            merged.setdefault(step, {}).update({name: next(arrays) for name in values})
        self._pending.clear()
        self.record(merged)
        return merged[max(merged)]


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that are whole or not there, whatever ends the process, and that are read as data alone."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Raises OSError if there is no room; the checkpoint that was there stays."""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        files.write(Path(path), buffer.getbuffer())

    def load_checkpoint(self, path: str | Path, map_location: Any = "cpu", weights_only: Any = None) -> dict[str, Any]:
        """Raises ValueError if the file is damaged, or would run code."""
        try:
            return torch.load(path, map_location, weights_only=True)
        except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{path} is damaged ({reason}); without it the run starts from the beginning") from error


@contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    """How float32 matrices are multiplied while it lasts: highest, in float32; high, in TF32 or as sums of bfloat16,
    and medium, in bfloat16, where the device can. Sums are float32's. See torch.set_float32_matmul_precision.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _percent(accuracies: np.ndarray) -> str:
    """Mean ± half-width of the 95 % interval over replicas (R,)."""
    mean, ci95 = stats.mean_ci95(accuracies)
    return f"{100 * mean:.2f} %" if ci95 is None else f"{100 * mean:.2f} ± {100 * ci95:.2f} %"


def _diverged(losses: np.ndarray) -> str:
    """How many replicas' losses (R,) are no number, if any: they count in the mean before it."""
    lost = np.count_nonzero(~np.isfinite(losses))
    return f"  {lost} of {len(losses)} diverged" if lost else ""


def _of_optimizers(checkpoint: dict[str, Any], change: Callable[[Tensor], Tensor]) -> None:
    """Changes what optimisers keep of parameters, tensors (R, D, E), and not counts; not in place: it is theirs."""

    def changed(kept: Any) -> Any:
        return change(kept) if isinstance(kept, Tensor) and kept.dim() else kept

    for optimizer in checkpoint.get("optimizer_states", []):
        states = optimizer["state"].items()
        optimizer["state"] = {key: {name: changed(kept) for name, kept in state.items()} for key, state in states}


def _is_plain(optimizer: Optimizer) -> bool:
    """Whether a step is W <- W - lr dL/dW, and no more."""
    more = ("momentum", "weight_decay", "dampening", "nesterov", "maximize")
    return type(optimizer) is SGD and not any(optimizer.defaults[name] for name in more)
