"""Lightning's room: the module around the hand-written network, and its checkpoints."""

import hashlib
import io
import logging
import pickle
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
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
from initlab.share import Shard
from initlab.workers import Workers, groups

log = logging.getLogger(__name__)

# Notes on devices and fonts are no news to the reader of a run.
for noisy in ("pytorch_lightning", "lightning_fabric", "matplotlib"):
    logging.getLogger(noisy).setLevel(logging.WARNING)
warnings.filterwarnings("ignore", ".*LeafSpec", category=FutureWarning)
warnings.filterwarnings("ignore", ".*`srun` command is available", category=UserWarning)  # where Slurm is installed
warnings.filterwarnings("ignore", "Checkpoint directory .* exists", category=UserWarning)  # of a resumed run

PRECISIONS = "highest", "high", "medium"
RESULTS = "val/loss", "val/accuracy"
UNITS = 10  # of replica 0, whose first-layer weights are kept to be looked at

Record = Callable[[dict[int, dict[str, np.ndarray]]], None]


class Group:
    """Some replicas of this device, r of them, as one worker trains them: statistics and means are theirs alone."""

    def __init__(self, module: "Network", where: slice) -> None:
        self.module, self.where = module, where
        self.optimizer: Optimizer | None = None
        self.sums: dict[str, Tensor] = {}  # {metric: (r,)} since the means were last taken
        self.counts: dict[str, int] = {}
        self.pending: list[tuple[int, dict[str, Tensor]]] = []  # on the device until the epoch ends
        self.histograms: list[tuple[int, list[Tensor]]] = []  # (step, of the activations of each hidden layer (bins,))

    def of(self, tensor: Tensor) -> Tensor:
        """The group's part of a tensor (R, ...) of all devices' replicas: a view."""
        return self.module.shard.local(tensor)[self.where]

    @property
    def network(self) -> tuple[list[Tensor], list[Tensor], mlp.Activation]:
        """Weights (r, D, E), biases (r, D, 1) and the activation."""
        module = self.module
        return (
            [self.of(W) for W in module.weights],
            [self.of(b) for b in module.biases],
            module.activation.each(self.of),
        )

    @torch.no_grad()
    def train(self, block: Iterable[tuple[Tensor, Tensor]], step: int) -> None:
        """Takes one optimiser step for every batch x (784, B), y (B,) of a block. Nothing here waits for the device."""
        descend = self._descent()
        for x, y in block:
            if self.module.workers.stopping.is_set():
                return
            before = self.measure(step) if step % self.module.every == 0 else None
            self.add("train/loss", descend(x, y), 1)
            if before is not None:
                self._measure_update(before)
            step += 1

    @torch.no_grad()
    def evaluate(self, stage: str, chunks: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Adds loss and accuracy on all chunks x (784, B), y (B,) of a stage."""
        network, loss = self.network, self.module.loss
        for x, y in chunks:
            z = mlp.forward(x, *network).z[-1]
            losses, _ = loss(z, y)
            self.add(f"{stage}/loss", losses.sum(-1), len(y))
            self.add(f"{stage}/accuracy", (loss.predict(z) == y).float().sum(-1), len(y))

    def measure(self, step: int) -> list[Tensor]:
        """Every statistic on the probe, as the networks stand before `step`; returns the weights as they are then."""
        x, y = self.module.probe_images
        weights, biases, activation = self.network
        _, gradients, trace = mlp.loss_and_gradients(x, y, weights, biases, activation, self.module.loss)
        layers = [
            stats.Layer(z, a, gradient.z, W, gradient.W)
            for z, a, W, gradient in zip(trace.z, trace.a[1:], weights, gradients, strict=True)
        ]
        self.pending.append((step, stats.measure(layers) | self.take_means("train")))
        self.histograms.append((step, [stats.histogram(layer.a) for layer in layers[:-1]]))
        return [W.clone() for W in weights]

    def add(self, name: str, values: Tensor, count: int) -> None:
        """Adds sums (r,) of `count` values to those of a metric."""
        self.sums[name] = self.sums[name] + values if name in self.sums else values
        self.counts[name] = self.counts.get(name, 0) + count

    def take_means(self, stage: str) -> dict[str, Tensor]:
        """Takes out the means (r,), since they were last taken, of what was added under `stage`."""
        names = [name for name in self.sums if name.startswith(stage)]
        return {name: self.sums.pop(name) / self.counts.pop(name) for name in names}

    def _descent(self) -> Callable[[Tensor, Tensor], Tensor]:
        """What takes an optimiser step on a batch x (784, B), y (B,), and returns the mean losses (r,) before it."""
        optimizer, network, loss = self.optimizer, self.network, self.module.loss
        assert optimizer is not None
        if _is_plain(optimizer):
            return lambda x, y: mlp.descend(x, y, *network, loss, lr=optimizer.param_groups[0]["lr"])

        def step(x: Tensor, y: Tensor) -> Tensor:
            losses, gradients, _ = mlp.loss_and_gradients(x, y, *network, loss)
            found = [gradient.W for gradient in gradients] + [gradient.b for gradient in gradients]
            for parameter, gradient in zip(optimizer.param_groups[0]["params"], found, strict=True):
                parameter.grad = gradient
            optimizer.step()
            return losses

        return step

    def _measure_update(self, before: list[Tensor]) -> None:
        """Adds what the step just taken did to the weights to the measurement made before it."""
        _, values = self.pending[-1]
        for number, (old, new) in enumerate(zip(before, self.network[0], strict=True), start=1):
            values[f"layer{number}/update_ratio"] = stats.update_ratio(old, new)


class Network(LightningModule):
    """`replicas` networks from one init scheme, trained side by side on the same batches.

    hidden: widths of the hidden layers.  scheme, activation, loss: what the config groups init and loss make.
    optimizer: parameters -> any torch.optim optimiser that treats every entry alike.
    every: optimiser steps between two measurements.  probe: validation images that are measured on.
    record: called with {step: {metric: value of each replica (R,)}} at the end of each epoch and of each stage.
    On a CPU `workers` train its replicas in groups; on another device one group has all that are there.
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
        self.shard, self.workers = Shard(replicas), Workers()
        self.groups: list[Group] = []
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        self._series: dict[str, list[Tensor]] = defaultdict(list)

    def configure_model(self) -> None:
        """Draws the networks, on each device all of them: Lightning calls it once the number of inputs is known."""
        if len(self.weights):
            return
        data, device = self.trainer.datamodule, self.trainer.strategy.root_device  # type: ignore[attr-defined]
        self.shard = Shard(self.replicas, self.trainer.global_rank, self.trainer.world_size)
        here = self.replicas // self.shard.devices
        parts = groups(here) if device.type == "cpu" else [slice(0, here)]
        self.groups = [Group(self, part) for part in parts]
        widths = [data.inputs, *self.hidden, self.loss.outputs]
        self.activation = self.activation.to(device)
        weights, biases = init.draw(self.scheme, widths, replicas=self.replicas, seed=self.seed)
        self.scheme.calibrate(weights, data.splits["train"][0].mT, self.activation)
        self.weights.extend(weights)
        self.biases.extend(biases)

    def configure_optimizers(self) -> list[Optimizer]:
        """One for each group: of parameters that lie where the group's do."""
        for group in self.groups:
            group.optimizer = self.optimizer([nn.Parameter(group.of(whole.detach())) for whole in self.parameters()])
        return [group.optimizer for group in self.groups if group.optimizer is not None]

    @property
    def probe_images(self) -> tuple[Tensor, Tensor]:
        """The images that statistics are measured on, x (784, N), and their digits (N,)."""
        images, labels = self.trainer.datamodule.splits["validation"]  # type: ignore[attr-defined]
        return images[: self.probe].mT, labels[: self.probe]

    def training_step(self, block: Iterable[tuple[Tensor, Tensor]], batch_idx: int) -> None:
        """Takes one optimiser step for every batch of a block: each group of replicas by itself."""
        batches = block if isinstance(block, Sized) else list(block)
        step = self.global_step
        self.workers.map(lambda group: group.train(batches, step), self.groups)
        self._keep_histograms()
        # Lightning's wrapper around an optimiser would count, but takes longer for it than a small network's step.
        self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.increment_by(len(batches))

    def validation_step(self, chunks: Iterable[tuple[Tensor, Tensor]], batch_idx: int) -> None:
        self.workers.map(lambda group: group.evaluate("val", chunks), self.groups)

    def test_step(self, chunks: Iterable[tuple[Tensor, Tensor]], batch_idx: int) -> None:
        self.workers.map(lambda group: group.evaluate("test", chunks), self.groups)

    def on_train_epoch_start(self) -> None:
        self._started, self._first = time.perf_counter(), self.global_step

    def on_train_start(self) -> None:
        self._keep_signals()
        if self.global_step == 0:
            self._keep_weights()
        else:
            log.info(f"going on with epoch {self.current_epoch + 1}")

    def on_validation_epoch_end(self) -> None:
        self._take_means("val")
        values = {name: torch.cat([group.pending[-1][1][name] for group in self.groups]) for name in RESULTS}
        # for the checkpoints
        self.log_dict({name: value.mean() for name, value in values.items()}, batch_size=1, sync_dist=True)

    def on_test_epoch_end(self) -> None:
        self._take_means("test")
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

    @torch.no_grad()
    def on_test_start(self) -> None:
        """Measures the networks as trained: here, since a run resumed after its last epoch has no end of training."""
        self._keep_signals()
        step = self.global_step
        self.workers.map(lambda group: group.measure(step), self.groups)
        self._keep_histograms()
        self._keep_weights()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what was summed and kept so far to the weights, the optimiser and Lightning's counts."""
        self._gather()
        names = self.groups[0].sums
        sums = {name: self.shard.all_gather(torch.cat([group.sums[name] for group in self.groups])) for name in names}
        checkpoint["initlab"] = {"sums": sums, "counts": self.groups[0].counts, "series": dict(self._series)}
        checkpoint["optimizer_states"] = [self._merged(checkpoint["optimizer_states"])]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes this device's part of what all had, however many there were then."""
        kept = checkpoint["initlab"]
        (whole,) = checkpoint["optimizer_states"]
        checkpoint["optimizer_states"] = [_part(whole, group.of) for group in self.groups]
        device = self.trainer.strategy.root_device
        for group in self.groups:
            group.sums = {name: group.of(total).to(device) for name, total in kept["sums"].items()}
            group.counts = dict(kept["counts"])
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

    def _merged(self, optimizers: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The state of one optimiser of all replicas, from those of the groups."""
        first = optimizers[0]
        merged: dict[Any, dict[str, Any]] = {}
        for key, state in first["state"].items():
            merged[key] = dict(state)
            for name, kept in state.items():
                if isinstance(kept, Tensor) and kept.dim():
                    whole = torch.cat([optimizer["state"][key][name] for optimizer in optimizers])
                    merged[key][name] = self.shard.all_gather(whole)
        return first | {"state": merged}

    def _keep_histograms(self) -> None:
        """Adds up what the groups have counted, and devices."""
        for found in zip(*(group.histograms for group in self.groups), strict=True):
            self._series["step"].append(torch.tensor(found[0][0]))
            for number, layer in enumerate(zip(*(counts for _, counts in found), strict=True), start=1):
                self._series[f"layer{number}/histogram"].append(self.shard.all_reduce(torch.stack(layer).sum(0)))
        for group in self.groups:
            group.histograms.clear()

    @torch.no_grad()
    def _gather(self) -> None:
        """Brings the replicas of all devices together on each."""
        for parameter in self.parameters():
            local = self.shard.local(parameter)
            if local is not parameter:
                parameter.copy_(self.shard.all_gather(local))

    def _keep_signals(self) -> None:
        if self.shard.devices > 1:
            process.take_sigterm_back()

    def _keep_weights(self) -> None:
        self._series["layer1/weight"].append(self.weights[0][0, :UNITS].detach().clone())

    def _take_means(self, stage: str) -> None:
        for group in self.groups:
            group.pending.append((self.global_step, group.take_means(stage)))

    def _flush(self) -> dict[str, np.ndarray]:
        """Hands what is pending to `record`, after one exchange between devices and one transfer from this one; returns
        the last step's values, of all replicas.
        """
        pending = self.groups[0].pending
        tables = [torch.stack([v for _, values in g.pending for v in values.values()], 1) for g in self.groups]
        arrays = iter(self.shard.all_gather(torch.cat(tables)).T.cpu().double().numpy())
        merged: dict[int, dict[str, np.ndarray]] = {}
        for step, values in pending:
            merged.setdefault(step, {}).update({name: next(arrays) for name in values})
        for group in self.groups:
            group.pending.clear()
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


def _part(optimizer: dict[str, Any], of: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """An optimiser's state with the part of some replicas of what it keeps of parameters, tensors (R, D, E)."""

    def part(kept: Any) -> Any:
        if not isinstance(kept, Tensor):
            return kept
        return of(kept) if kept.dim() else kept.clone()  # a count of steps: each optimiser adds to its own

    states = optimizer["state"].items()
    return optimizer | {"state": {key: {name: part(kept) for name, kept in state.items()} for key, state in states}}


def _is_plain(optimizer: Optimizer) -> bool:
    """Whether a step is W <- W - lr dL/dW, and no more."""
    more = ("momentum", "weight_decay", "dampening", "nesterov", "maximize")
    return type(optimizer) is SGD and not any(optimizer.defaults[name] for name in more)
