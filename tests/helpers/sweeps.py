"""Sweeps made up for the report's tests: their shape is a real one's, their numbers are chosen."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from initlab.nn import layer_stats, theory
from initlab.tracking.results import Results

STEPS = (0, 200, 400)


def sweep(*runs: Results) -> Results:
    """Several runs as one sweep."""
    return Results(
        pd.concat([run.replicas for run in runs], ignore_index=True),
        {name: record for run in runs for name, record in run.runs.items()},
        {name: tensors for run in runs for name, tensors in run.tensors.items()},
    )


def run(
    overrides: dict[str, str],
    accuracies: Sequence[float] = (0.9, 0.92),
    *,
    hidden: int = 1,
    shift: float = 0.0,
    diverged: int = 0,
    inputs: int = 16,
) -> Results:
    """One run of len(accuracies) replicas, the last `diverged` of which end as nan."""
    name = ",".join(f"{key}={value}" for key, value in overrides.items())
    replicas = len(accuracies)
    alive = np.where(np.arange(replicas) < replicas - diverged, 1.0, np.nan)
    rows: list[dict] = []
    for step in STEPS:
        values: dict[str, np.ndarray] = {}
        for layer in range(1, hidden + 2):
            names = layer_stats.ALL_LAYERS if layer > hidden else layer_stats.ALL_LAYERS | layer_stats.HIDDEN_LAYERS
            values |= {f"layer{layer}/{n}": np.linspace(0.4, 0.5, replicas) * 0.8**layer for n in names}
        if step:
            values |= {
                "train/loss": np.full(replicas, 1 / step) * alive,
                "val/loss": np.full(replicas, 2 / step) * alive,
            }
            values["val/accuracy"] = np.array(accuracies) * step / max(STEPS)
        if step == max(STEPS):
            values["test/accuracy"] = np.array(accuracies)
        for replica in range(replicas):
            row = {"run": name} | overrides | {"step": step, "replica": replica}
            rows.append(row | {metric: value[replica] for metric, value in values.items()})
    config = {
        "replicas": replicas,
        "model": {"hidden": [5] * hidden},
        "seed": int(overrides.get("seed", 0)),
        "data": {"folder": "data/normalized/mnist", "batch_size": 64},
        "trainer": {"max_epochs": 2},
        "optimizer": {"_target_": "torch.optim.SGD", "lr": float(overrides.get("optimizer.lr", 0.05))},
        "loss": {"_target_": "initlab.nn.losses.CrossEntropy"},
        "stats": {"probe": 256},
        "init": {"weights": {"_target_": "initlab.nn.init.kaiming", "mode": "fan_in"}},
        "activation": {"_target_": "initlab.nn.activations.ReLU", "leak": 0, "shift": shift, "scale": 1},
    }
    record = {
        "overrides": overrides,
        "config": config,
        "theory": expected(hidden, inputs, theory.Phi("ReLU", shift=shift)),
    }
    return Results(pd.DataFrame(rows), {name: record}, {name: tensors(hidden, inputs)})


def expected(hidden: int, inputs: int, phi: theory.Phi) -> dict[str, float]:
    """Theory of Kaiming's weights."""
    layers = [
        theory.DrawnLayer(fan_in, fan_out, 2 / fan_in) for fan_in, fan_out in pairwise([inputs, *[5] * hidden, 10])
    ]
    found = theory.moments(layers, [float(inputs)] * 2, phi, inputs * (0.4 + 0.6 * np.eye(2)))
    names = ("preact_mean", "preact_std", "act_mean", "act_std", "saturated_fraction", "act_cosine", "backward_ratio")
    values = {f"layer{n}/{name}": float(getattr(m, name)) for n, m in enumerate(found, start=1) for name in names}
    return values | {"chance": 0.1, "outputs": 10, "probe": 200}


def tensors(hidden: int, inputs: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    found = {"step": torch.tensor(STEPS), "layer1/weight": torch.randn(2, 3, inputs, generator=generator)}
    histogram = torch.randint(0, 9, (len(STEPS), layer_stats.BINS), generator=generator).float()
    return found | {f"layer{layer}/histogram": histogram.clone() for layer in range(1, hidden + 1)}
