"""Statistics of many draws of the lesson's network, one draw per replica.

Replica r of seed 0 here is replica r of seed 0 in a run.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from initlab.data import normalized_files
from initlab.nn import init, mlp
from initlab.nn.activations import Activation, ReLU
from initlab.nn.losses import Loss
from initlab.random_streams import stream
from initlab.workers import Workers

SEED = 0
WIDTH = 50  # hidden units of the lesson's network
DEPTH = 8  # hidden layers, for claims about several
STEPS, BATCH, CHECKED = 100, 64, 2000  # training steps and batch size; validation images to measure accuracy on
SLICE = 20, 1000  # replicas and images that are multiplied at a time: they fit into the cache
RELU = ReLU()
KAIMING = init.kaiming()


def first_layer_moments(
    scheme: init.Scheme, images: Tensor, activations: Mapping[str, Activation | None], draws: int, workers: Workers
) -> dict[str, np.ndarray]:
    """Returns {"NAME mean", "NAME std": (draws,)} of phi(W x), over units and images (N, 784), and of the weights.

    activations: {NAME: phi}; None is the identity.  The weights are `w1`.  Sums over slices are float32, their totals
    float64.
    """
    (W,), (b,) = init.draw(scheme, [images.shape[1], WIDTH], replicas=draws, seed=SEED)
    sums = {name: torch.zeros(2, draws, dtype=torch.float64) for name in activations}

    def add(some: Tensor) -> None:
        for x in images.split(SLICE[1]):
            z = mlp.linear(x.mT, W[some], b[some])  # (R, D, B)
            for name, phi in activations.items():
                a = z if phi is None else phi(z)
                sums[name][:, some] += torch.stack([a.sum((1, 2)), a.square().sum((1, 2))])

    workers.map(add, torch.arange(draws).split(SLICE[0]))
    n = WIDTH * len(images)
    found = {"w1 mean": W.mean((1, 2)).numpy(), "w1 std": W.std((1, 2)).numpy()}
    for name, (first, second) in sums.items():
        found[f"{name} mean"] = (first / n).numpy()
        found[f"{name} std"] = ((second - first**2 / n) / (n - 1)).sqrt().numpy()
    return found


def second_moments(scheme: init.Scheme, x: Tensor, draws: int, workers: Workers) -> np.ndarray:
    """Returns E[a_l^2] over units and images x (784, B), of the input and L layers with ReLU: (draws, 1 + L)."""
    weights, biases = init.draw(scheme, [len(x), *[WIDTH] * DEPTH], replicas=draws, seed=SEED)
    found = torch.empty(draws, 1 + DEPTH, dtype=torch.float64)
    found[:, 0] = x.double().square().mean()

    def measure(some: Tensor) -> None:
        a = x
        for layer, (W, b) in enumerate(zip(weights, biases, strict=True), start=1):
            a = RELU(mlp.linear(a, W[some], b[some]))
            found[some, layer] = a.square().mean((1, 2)).double()

    workers.map(measure, torch.arange(draws).split(SLICE[0]))
    return found.numpy()


def accuracies(folder: Path, loss: Loss, learning_rate: float, draws: int, workers: Workers) -> np.ndarray:
    """Returns the accuracy (draws,) of the lesson's network, on CHECKED validation images, after STEPS steps of SGD.

    The scheme is kaiming.  folder: of the normalised data.
    """
    images, labels = normalized_files.load(folder, "train")
    validation, digits = (split[:CHECKED] for split in normalized_files.load(folder, "validation"))
    drawn = init.draw(KAIMING, [784, WIDTH, loss.outputs], replicas=draws, seed=SEED)
    order = torch.from_numpy(stream(SEED, "epoch", 0).permutation(len(images)))[: STEPS * BATCH]

    def train(some: Tensor) -> Tensor:
        weights, biases = ([parameter[some] for parameter in kind] for kind in drawn)
        for rows in order.split(BATCH):
            mlp.sgd_step(images[rows].mT, labels[rows], weights, biases, RELU, loss, lr=learning_rate)
        z = [mlp.forward(x.mT, weights, biases, RELU).z[-1] for x in validation.split(SLICE[1])]
        return (loss.predict(torch.cat(z, -1)) == digits).double().mean(-1)

    return torch.cat(workers.map(train, torch.arange(draws).split(SLICE[0]))).numpy()
