"""How fast rounding grows in training: the first steps again, from weights that differ by as much as rounding may."""

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import numpy as np
import pandas as pd
from numpy.random import Generator
from torch import Tensor

from initlab.nn.init import Array, Scheme
from initlab.reproduction.bounds import product_error
from initlab.reproduction.verdict import LOSS, STEPS, typical_difference
from initlab.tracking.run_logger import start_run
from initlab.training.fit import train

TRIALS = 4  # how often, each time with other weights


class Perturbed(Scheme):
    """A scheme whose weights are changed at random, by as much as rounding may change the sums that they enter.

    Each weight gets a relative error of +- sqrt(fan_in) u: see `initlab.reproduction.bounds`.
    """

    def __init__(self, scheme: Scheme, seed: int) -> None:
        self.scheme, self.random = scheme, np.random.default_rng(seed)
        self.unit_variance, self.zero_mean = scheme.unit_variance, scheme.zero_mean  # type: ignore[misc]

    def for_activation(self, activation: object) -> Scheme:
        self.scheme = self.scheme.for_activation(activation)
        return self

    def weight(self, fan_out: int, fan_in: int, *, generator: Generator) -> Array:
        weight = self.scheme.weight(fan_out, fan_in, generator=generator)
        signs = self.random.choice([-1.0, 1.0], weight.shape)
        return (weight * (1 + product_error(fan_in, "highest") * signs)).astype(np.float32)

    def variance(self, fan_out: int, fan_in: int) -> float:
        return self.scheme.variance(fan_out, fan_in)

    def bias(self, fan_out: int, fan_in: int, *, generator: Generator) -> Array:
        return self.scheme.bias(fan_out, fan_in, generator=generator)

    def bias_variance(self, fan_out: int, fan_in: int) -> float:
        return self.scheme.bias_variance(fan_out, fan_in)

    def calibrate(self, weights: Sequence[Tensor], x: Tensor, phi: Callable[[Tensor], Tensor]) -> None:
        self.scheme.calibrate(weights, x, phi)


def measure(runs: Mapping[str, Mapping[str, Any]], replicas: pd.DataFrame) -> dict[str, dict[int, float]]:
    """Returns {run: {step: how much the training loss differs}}, the largest of TRIALS lower quartiles over replicas.

    runs: {run: {"config"}}.  replicas: their results, which those of perturbed weights are compared with.
    Prints one line per run.
    """
    found: dict[str, dict[int, float]] = {}
    with TemporaryDirectory() as folder:
        for number, (run, record) in enumerate(runs.items(), start=1):
            table = replicas[replicas["run"] == run].set_index(["step", "replica"])[LOSS]
            trials = [early_losses(record["config"], Path(folder), trial) for trial in range(TRIALS)]
            found[run] = {
                step: max(typical_difference(table.loc[step].to_numpy(), losses[step]) for losses in trials)
                for step in trials[0]
                if step in table
            }
            print(f"{number} of {len(runs)}: {run}: " + ", ".join(f"{g:.1e} at {s}" for s, g in found[run].items()))
    return found


def early_losses(config: Mapping[str, Any], folder: Path, trial: int) -> dict[int, np.ndarray]:
    """Trains the first steps of a run again. Returns {step: mean loss since the last measurement, of each replica}.

    folder: where the run goes, and its store.  trial: number of the perturbation of the weights.
    """
    config = perturbed(config, trial)
    config["trainer"] |= {"max_epochs": 1, "limit_train_batches": STEPS}
    uri = f"sqlite:///{(folder / 'mlflow.db').as_posix()}"
    with start_run(uri=uri, experiment="growth", folder=folder / uuid4().hex, name="growth", config=config) as run:
        train(config, run)
    return {step: values[LOSS] for step, values in run.journal.history.items() if LOSS in values}


def perturbed(config: Mapping[str, Any], trial: int) -> dict[str, Any]:
    """Returns the configuration with perturbed weights."""
    changed = copy.deepcopy(dict(config))
    target = f"{Perturbed.__module__}.{Perturbed.__name__}"
    changed["init"]["weights"] = {"_target_": target, "scheme": changed["init"]["weights"], "seed": trial}
    return changed
