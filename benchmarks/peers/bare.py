"""initlab's maths in a bare loop: no Trainer, no statistics, no record."""

from collections.abc import Iterator
from math import nan

import torch
from torch import Tensor

from benchmarks.peers import BATCH, CLASSES, HIDDEN, LEARNING_RATE, Clock, splits
from initlab.data import datamodule
from initlab.nn import init, mlp
from initlab.nn.activations import Activation, ReLU
from initlab.nn.losses import CrossEntropy, Loss


def train(
    epochs: int,
    replicas: int,
    clock: Clock,
    hidden: list[int] | None = None,
    batch: int = BATCH,
    validate: bool = True,
) -> None:
    """validate: whether an epoch includes the accuracy on the validation images."""
    x, y, x_val, y_val = splits()
    phi, loss = ReLU(), CrossEntropy(CLASSES)
    widths = [784, *(hidden or [HIDDEN]), CLASSES]
    weights, biases = init.draw(init.kaiming(), widths, replicas=replicas, seed=0)
    order = datamodule.EpochOrder(len(x), batch, block=64, seed=0, device=x.device)
    blocks = datamodule.Blocks(x, y, batch)
    clock.start()
    for epoch in range(epochs):
        order.set_epoch(epoch)
        total = torch.zeros(replicas)
        for rows in order:
            for some, digits in blocks[rows]:
                total += mlp.sgd_step(some, digits, weights, biases, phi, loss, lr=LEARNING_RATE)
        hits = list(_hits(x_val, y_val, weights, biases, phi, loss)) if validate else []
        clock.tick(torch.cat(hits, dim=-1).float().mean().item() if validate else nan)


def _hits(
    x: Tensor, y: Tensor, weights: list[Tensor], biases: list[Tensor], phi: Activation, loss: Loss
) -> Iterator[Tensor]:
    for some, digits in zip(x.split(1000), y.split(1000), strict=True):
        yield loss.predict(mlp.forward(some.mT, weights, biases, phi).z[-1]) == digits
