"""Programs that train 784-50-10 on MNIST with SGD, each as its library's own documentation would write it.

A module here is one of them. It has `train(epochs, replicas, clock)`: an epoch is 50,000 images in batches of 64, in
a new order, and the accuracy on the 10,000 validation images at its end, with which it calls `clock.tick`.
`python -m benchmarks.peers NAME --epochs N --replicas R` runs one in a process of its own, and prints what it took.
"""

import resource
import time
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from initlab.data.normalized import load

FOLDER = Path("data/normalized/mnist")
HIDDEN, CLASSES, BATCH, LEARNING_RATE = 50, 10, 64, 0.05


class Splits(NamedTuple):
    """Normalised images (N, 784) and their digits (N,)."""

    x: Tensor
    y: Tensor
    x_val: Tensor
    y_val: Tensor


def splits() -> Splits:
    """What the pipeline's normalize stage wrote, to train and to validate on."""
    return Splits(*load(FOLDER, "train"), *load(FOLDER, "validation"))


class Clock:
    """Takes the time of epochs, and the accuracy at their end, to show that all do the same work."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.accuracies: list[float] = []
        self._last = time.perf_counter()

    def start(self) -> None:
        """The first epoch begins: what was done so far, reading the data, say, is not counted."""
        self._last = time.perf_counter()

    def tick(self, accuracy: float) -> None:
        """An epoch is over."""
        now = time.perf_counter()
        self.add(now - self._last, accuracy)
        self._last = now

    def add(self, seconds: float, accuracy: float) -> None:
        self.seconds.append(seconds)
        self.accuracies.append(accuracy)


def peak_memory() -> float:
    """The most memory that this process, or one it has started, ever had, in MB."""
    kinds = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    return max(resource.getrusage(kind).ru_maxrss for kind in kinds) / 1024  # Linux counts kB
