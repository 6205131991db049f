"""The LightningModule around the hand-written networks: their draws, training steps, evaluation and checkpoints."""

import logging
import warnings
from collections.abc import Callable, Iterable, Sequence, Sized
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer

from initlab.checks import check_type
from initlab.nn import init
from initlab.nn.activations import Activation
from initlab.nn.losses import Loss
from initlab.training.replica_group import ReplicaGroup
from initlab.training.shard import Shard
from initlab.training.validation import validate_optimizer
from initlab.workers import Workers, groups

if TYPE_CHECKING:
    from initlab.training.callbacks import LayerStatistics

# Lightning's messages about devices and files would clutter the output of a run.
for noisy in ("pytorch_lightning", "lightning_fabric"):
    logging.getLogger(noisy).setLevel(logging.WARNING)
warnings.filterwarnings("ignore", ".*LeafSpec", category=FutureWarning)
warnings.filterwarnings("ignore", ".*`srun` command is available", category=UserWarning)  # where Slurm is installed
warnings.filterwarnings("ignore", "Checkpoint directory .* exists", category=UserWarning)  # when a run is resumed
warnings.filterwarnings("ignore", ".*could not find the monitored key", category=UserWarning)  # before a validation


class Network(LightningModule):
    """`replicas` networks of one init scheme, trained side by side on the same batches.

    hidden: widths of the hidden layers.  scheme, activation, loss: from the config groups `init`,
    `activation` and `loss`.
    optimizer: function from parameters to a torch.optim optimiser, which must treat all entries of a tensor alike.
    On a CPU, `workers` train the replicas in groups. On any other device, one group holds all replicas.
    statistics: set by the callback `LayerStatistics`, if there is one.
    validated_step: number of optimiser steps taken before the last validation.
    Raises ValueError for a value out of range or of the wrong type, before anything is drawn.
    """

    def __init__(
        self,
        *,
        hidden: Sequence[int],
        replicas: int,
        seed: int,
        scheme: init.Scheme,
        activation: Activation,
        loss: Loss,
        optimizer: Callable[[list[nn.Parameter]], Optimizer],
    ) -> None:
        super().__init__()
        init.check_sizes(hidden, replicas=replicas, seed=seed)
        check_type("scheme", scheme, init.Scheme)
        check_type("activation", activation, Activation)
        check_type("loss", loss, Loss)
        validate_optimizer(optimizer)
        self.automatic_optimization = False
        self.hidden, self.replicas, self.seed = list(hidden), replicas, seed
        self.scheme = scheme.for_activation(activation)
        self.activation, self.loss, self.optimizer = activation, loss, optimizer
        self.shard, self.workers = Shard(replicas), Workers()
        self.groups: list[ReplicaGroup] = []
        self.statistics: LayerStatistics | None = None
        self.validated_step: int | None = None
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()  # (R, D, E), (R, D, 1), first layer first

    def widths(self, inputs: int) -> list[int]:
        """Returns [inputs, hidden..., outputs]."""
        return [inputs, *self.hidden, self.loss.outputs]

    def configure_model(self) -> None:
        """Draws all networks, on every device. Lightning calls it once the number of inputs is known."""
        if len(self.weights):
            return
        data, device = self.trainer.datamodule, self.trainer.strategy.root_device  # type: ignore[attr-defined]
        self.shard = Shard(self.replicas, self.trainer.global_rank, self.trainer.world_size)
        here = self.replicas // self.shard.devices
        parts = groups(here) if device.type == "cpu" else [slice(0, here)]
        self.groups = [ReplicaGroup(self, part) for part in parts]
        self.activation = self.activation.to(device)
        weights, biases = init.draw(self.scheme, self.widths(data.inputs), replicas=self.replicas, seed=self.seed)
        self.scheme.calibrate(weights, data.splits["train"][0].mT, self.activation)
        self.weights.extend(weights)
        self.biases.extend(biases)

    def configure_optimizers(self) -> list[Optimizer]:
        """Returns one optimiser per group, of parameters that share memory with the module's."""
        optimizers = []
        for group in self.groups:
            group.optimizer = self.optimizer([nn.Parameter(group.local(whole.detach())) for whole in self.parameters()])
            optimizers.append(group.optimizer)
        return optimizers

    def training_step(self, block: Iterable[tuple[Tensor, Tensor]], batch_idx: int) -> None:
        """Takes one optimiser step for every batch x (784, B), y (B,) of a block, in each group of replicas."""
        step, last = self.global_step, self.trainer.max_steps
        if last >= 0:  # Lightning would look at it only after the block
            block = list(islice(block, last - step))
        batches = block if isinstance(block, Sized) else list(block)
        self.workers.map(lambda group: group.train(batches, step), self.groups)
        # Lightning's wrapper of an optimiser would count the steps, but takes longer than a small network's step.
        self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.increment_by(len(batches))

    def validation_step(self, chunks: Iterable[tuple[Tensor, Tensor]], batch_idx: int) -> None:
        """Measures loss and accuracy on all chunks x (784, B), y (B,) of the validation images."""
        self._evaluate("val", chunks)

    def test_step(self, chunks: Iterable[tuple[Tensor, Tensor]], batch_idx: int) -> None:
        """Measures loss and accuracy on all chunks x (784, B), y (B,) of the test images."""
        self._evaluate("test", chunks)

    def on_validation_epoch_end(self) -> None:
        """Logs the means over replicas, for ModelCheckpoint to monitor."""
        if self.trainer.sanity_checking:
            return
        for name in ("val/loss", "val/accuracy"):
            values = torch.cat([group.pending[-1][1][name] for group in self.groups])
            self.log(name, values.mean(), batch_size=1, sync_dist=True)

    def on_train_end(self) -> None:
        """Copies the trained replicas of every device to all devices."""
        self._gather()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the training losses that are not averaged yet, and merges the groups' optimiser states into one."""
        self._gather()
        sums = [group.loss_sum for group in self.groups if group.loss_sum is not None]
        loss_sum = self.shard.all_gather(torch.cat(sums)) if sums else None
        checkpoint["initlab"] = {"loss_sum": loss_sum, "loss_steps": self.groups[0].loss_steps}
        checkpoint["optimizer_states"] = [self._merged_state(checkpoint["optimizer_states"])]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Gives each group its part of the state of all replicas, for any number of devices and groups."""
        kept, device = checkpoint["initlab"], self.trainer.strategy.root_device
        for group in self.groups:
            group.loss_sum = None if kept["loss_sum"] is None else group.local(kept["loss_sum"].to(device))
            group.loss_steps = kept["loss_steps"]
        (state,) = checkpoint["optimizer_states"]
        checkpoint["optimizer_states"] = [_part_of_state(state, group.local) for group in self.groups]

    def take_measurements(self) -> dict[int, dict[str, np.ndarray]]:
        """Returns what was measured since the last call: {step: {metric: value of each replica (R,)}}, float64.

        Takes one exchange between devices, and one transfer from this one. All devices have to call it.
        """
        if not self.groups[0].pending:
            return {}
        tables = [torch.stack([v for _, values in g.pending for v in values.values()], 1) for g in self.groups]
        columns = iter(self.shard.all_gather(torch.cat(tables)).T.cpu().double().numpy())
        measurements: dict[int, dict[str, np.ndarray]] = {}
        for step, values in self.groups[0].pending:
            measurements.setdefault(step, {}).update({name: next(columns) for name in values})
        for group in self.groups:
            group.pending.clear()
        return measurements

    def _evaluate(self, stage: str, chunks: Iterable[tuple[Tensor, Tensor]]) -> None:
        step = self.global_step
        self.workers.map(lambda group: group.evaluate(stage, chunks, step), self.groups)
        if self.trainer.sanity_checking:  # a rehearsal, whose values are no part of the run
            for group in self.groups:
                group.pending.clear()
        elif stage == "val":
            self.validated_step = step

    @torch.no_grad()
    def _gather(self) -> None:
        """Copies the replicas of every device to all devices."""
        if self.shard.devices > 1:
            for parameter in self.parameters():
                parameter.copy_(self.shard.all_gather(self.shard.local(parameter)))

    def _merged_state(self, states: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Merges the optimiser states of the groups into the state of one optimiser of all replicas."""
        first = states[0]
        merged: dict[Any, dict[str, Any]] = {}
        for key, entries in first["state"].items():
            merged[key] = dict(entries)
            for name, entry in entries.items():
                if isinstance(entry, Tensor) and entry.dim():
                    merged[key][name] = self.shard.all_gather(
                        torch.cat([state["state"][key][name] for state in states])
                    )
        return first | {"state": merged}


def _part_of_state(optimizer: dict[str, Any], local: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """Returns an optimiser's state with `local` applied to its tensors that have the shape of a parameter (R, D, E)."""

    def part(entry: Any) -> Any:
        if not isinstance(entry, Tensor):
            return entry
        return local(entry) if entry.dim() else entry.clone()  # a step count: each optimiser needs its own copy

    states = optimizer["state"].items()
    return optimizer | {"state": {key: {name: part(entry) for name, entry in state.items()} for key, state in states}}
