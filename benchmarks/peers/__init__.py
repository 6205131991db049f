"""Programs that train 784-50-10 on MNIST with SGD, each written as in its library's own documentation.

Each module here is one of them. Its `train(epochs, replicas, clock)` trains on 50,000 images per epoch, in batches of
64 and in a new order each time, and calls `clock.tick` with the accuracy on the 10,000 validation images after each
epoch.
`python -m benchmarks.peers NAME --epochs N --replicas R` runs one in its own process, and prints its measurements.
"""

import resource
import time
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from initlab.data.normalized_files import load

FOLDER = Path("data/normalized/mnist")
HIDDEN, CLASSES, BATCH, LEARNING_RATE = 50, 10, 64, 0.05


class Splits(NamedTuple):
    """Normalised images (N, 784) and their digits (N,)."""

    x: Tensor
    y: Tensor
    x_val: Tensor
    y_val: Tensor


def splits() -> Splits:
    """Loads what the pipeline's normalize stage wrote, to train and to validate on."""
    return Splits(*load(FOLDER, "train"), *load(FOLDER, "validation"))


class Clock:
    """Times epochs, and keeps the accuracy after each, to show that all programs do the same work."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.accuracies: list[float] = []
        self._last = time.perf_counter()

    def start(self) -> None:
        """Starts the first epoch. What was done before, such as reading the data, is not counted."""
        self._last = time.perf_counter()

    def tick(self, accuracy: float) -> None:
        """Ends an epoch."""
        now = time.perf_counter()
        self.add(now - self._last, accuracy)
        self._last = now

    def add(self, seconds: float, accuracy: float) -> None:
        """Adds an epoch of known duration."""
        self.seconds.append(seconds)
        self.accuracies.append(accuracy)


def peak_memory() -> float:
    """Returns the peak memory of this process, or of one that it has started if that is larger, in MB."""
    kinds = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    return max(resource.getrusage(kind).ru_maxrss for kind in kinds) / 1024  # Linux counts kB
