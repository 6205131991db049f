"""A group of replicas, trained by one worker."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from initlab.nn import mlp
from initlab.nn.activations import Activation

if TYPE_CHECKING:
    from initlab.training.lightning_module import Network

Measurement = tuple[int, dict[str, Tensor]]  # step, {metric: one value per replica (r,)}


class ReplicaGroup:
    """r of this device's replicas. It trains views of the module's parameters.

    where: the group's slice of the device's replicas.  optimizer: of this group's parameters.
    pending: measurements that the module has not taken yet.  histograms: step, and counts of the activations of each
    hidden layer (bins,), that have not been collected yet.
    """

    def __init__(self, module: "Network", where: slice) -> None:
        self.module, self.where = module, where
        self.optimizer: Optimizer | None = None
        self.pending: list[Measurement] = []
        self.histograms: list[tuple[int, list[Tensor]]] = []
        self.loss_sum: Tensor | None = None  # (r,), over the steps since the training loss was last taken
        self.loss_steps = 0

    def local(self, tensor: Tensor) -> Tensor:
        """Returns the group's part (r, ...) of a tensor (R, ...) of the replicas of all devices, as a view."""
        return self.module.shard.local(tensor)[self.where]

    @property
    def network(self) -> tuple[list[Tensor], list[Tensor], Activation]:
        """Weights (r, D, E), biases (r, D, 1) and the activation."""
        weights = [self.local(W) for W in self.module.weights]
        biases = [self.local(b) for b in self.module.biases]
        return weights, biases, self.module.activation.map_constants(self.local)

    @torch.no_grad()
    def train(self, block: Iterable[tuple[Tensor, Tensor]], step: int) -> None:
        """Takes one optimiser step for every batch x (784, B), y (B,) of a block. It never waits for the device.

        step: number of steps taken before.
        """
        take_step, statistics = self._step_function(), self.module.statistics
        for x, y in block:
            if self.module.workers.stopping.is_set():
                return
            before = None
            if statistics is not None and step % statistics.every == 0:
                before = statistics.measure(self, step)
            losses = take_step(x, y)
            self.loss_sum = losses if self.loss_sum is None else self.loss_sum + losses
            self.loss_steps += 1
            if statistics is not None and before is not None:
                statistics.measure_update(self, before)
            step += 1

    @torch.no_grad()
    def evaluate(self, stage: str, chunks: Iterable[tuple[Tensor, Tensor]], step: int) -> None:
        """Measures the mean loss and the accuracy on all chunks x (784, B), y (B,) of a stage, `val` or `test`."""
        network, loss = self.network, self.module.loss
        losses, hits, images = torch.zeros(()), torch.zeros(()), 0
        for x, y in chunks:
            z = mlp.forward(x, *network).z[-1]
            losses = losses.to(z) + loss(z, y)[0].sum(-1)
            hits = hits.to(z) + (loss.predict(z) == y).float().sum(-1)
            images += len(y)
        self.pending.append((step, {f"{stage}/loss": losses / images, f"{stage}/accuracy": hits / images}))

    def take_train_loss(self) -> dict[str, Tensor]:
        """Returns {"train/loss": (r,)}, the mean over the steps since the last call; {} if there are none."""
        if self.loss_sum is None:
            return {}
        mean, self.loss_sum, self.loss_steps = self.loss_sum / self.loss_steps, None, 0
        return {"train/loss": mean}

    def _step_function(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Returns a function that takes a step on a batch x (784, B), y (B,), and returns the losses (r,) before it."""
        optimizer, network, loss = self.optimizer, self.network, self.module.loss
        assert optimizer is not None
        if _is_plain_sgd(optimizer):
            return lambda x, y: mlp.sgd_step(x, y, *network, loss, lr=optimizer.param_groups[0]["lr"])

        def step(x: Tensor, y: Tensor) -> Tensor:
            losses, gradients, _ = mlp.loss_and_gradients(x, y, *network, loss)
            ordered = [gradient.W for gradient in gradients] + [gradient.b for gradient in gradients]
            for parameter, gradient in zip(optimizer.param_groups[0]["params"], ordered, strict=True):
                parameter.grad = gradient
            optimizer.step()
            return losses

        return step


def _is_plain_sgd(optimizer: Optimizer) -> bool:
    """Returns whether a step is W <- W - lr dL/dW and nothing else."""
    options = ("momentum", "weight_decay", "dampening", "nesterov", "maximize")
    return type(optimizer) is SGD and not any(optimizer.defaults[name] for name in options)
