"""Independent random streams, each a function of the seed and of what it is for."""

from typing import Literal

import numpy as np
from numpy.random import Generator, SeedSequence


def stream(seed: int, purpose: Literal["replica", "epoch"], index: int) -> Generator:
    """Returns the generator for one replica's draws, or for one epoch's batch order. It depends on its arguments alone.

    Source: NumPy, "Parallel random number generation": streams of one seed with different spawn keys are independent.
    """
    return np.random.default_rng(SeedSequence(seed, spawn_key=(("replica", "epoch").index(purpose), index)))
