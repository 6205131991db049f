"""Results made up for the tests of reproduction: a real step 0, and early losses and final values that are chosen."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from initlab.nn import init, layer_stats, mlp
from initlab.nn.activations import Activation, ReLU
from initlab.nn.losses import CrossEntropy
from initlab.reproduction.verdict import Numbers

INPUTS, OUTPUTS, IMAGES, BATCH, LAST = 196, 10, 128, 32, 6248
HIDDEN = (30, 30, 30, 30)


def images(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Normalised images (inputs, images), and labels."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(INPUTS, IMAGES, generator=generator), torch.randint(OUTPUTS, (IMAGES,), generator=generator)


def step0(
    scheme: init.Scheme | None = None,
    phi: Activation | None = None,
    *,
    lr: float = 0.05,
    seed: int = 0,
    replicas: int = 8,
    dtype: torch.dtype = torch.float32,
) -> dict[str, np.ndarray]:
    """The statistics at step 0 of networks drawn in float32, {"layer1/act_std": (R,), ...}, computed in a precision."""
    scheme, phi = scheme or init.kaiming(), phi or ReLU()
    x, y = images()
    weights, biases = init.draw(scheme, [INPUTS, *HIDDEN, OUTPUTS], replicas=replicas, seed=seed)
    weights, biases = [W.to(dtype) for W in weights], [b.to(dtype) for b in biases]
    scheme.calibrate(weights, x.to(dtype), phi)
    loss = CrossEntropy(OUTPUTS)
    _, gradients, trace = mlp.loss_and_gradients(x.to(dtype), y, weights, biases, phi, loss)
    layers = [
        layer_stats.LayerTensors(z, a, gradient.z, W, gradient.W, phi.saturated(z))
        for z, a, W, gradient in zip(trace.z, trace.a[1:], weights, gradients, strict=True)
    ]
    values = layer_stats.measure(layers)
    before = [W.clone() for W in weights]
    mlp.sgd_step(x[:, :BATCH].to(dtype), y[:BATCH], weights, biases, phi, loss, lr=lr)
    for number, (old, new) in enumerate(zip(before, weights, strict=True), start=1):
        values[f"layer{number}/update_ratio"] = layer_stats.update_ratio(old, new)
    return {name: value.double().numpy() for name, value in values.items()}


def config(**changes: Any) -> dict[str, Any]:
    """A run's configuration, as far as it is compared; changes: {"optimizer.lr": 0.049} is `optimizer__lr=0.049`."""
    made: dict[str, Any] = {
        "init": {"weights": {"_target_": "initlab.nn.init.kaiming", "leak": 0, "mode": "fan_in"}},
        "activation": {"_target_": "initlab.nn.activations.ReLU", "leak": 0, "shift": 0, "scale": 1},
        "model": {"hidden": list(HIDDEN)},
        "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.05},
        "loss": {"_target_": "initlab.nn.losses.CrossEntropy"},
        "data": {"folder": "data/normalized/mnist", "pin": "data.dvc", "batch_size": BATCH},
        "trainer": {"max_epochs": 8},
        "seed": 0,
        "matmul_precision": "highest",
    }
    for key, value in changes.items():
        *path, last = key.split("__")
        part = made
        for name in path:
            part = part[name]
        part[last] = value
    return made


def run(
    start: Mapping[str, np.ndarray],
    *,
    losses: np.ndarray | float = 1.0,
    accuracy: np.ndarray | float = 0.97,
    diverged: int = 0,
    last: int = LAST,
) -> pd.DataFrame:
    """The table of one run. losses: at steps 200 and 400 (R,).  accuracy: final (R,).  diverged: how many end so."""
    replicas = len(next(iter(start.values())))
    each = partial(np.broadcast_to, shape=(replicas,))
    alive = np.where(np.arange(replicas) < replicas - diverged, 1.0, np.nan)
    early = {"train/loss": each(losses)}
    final = {
        "val/loss": 0.1 * alive,
        "val/accuracy": each(accuracy),
        "test/loss": (1.1 - each(accuracy)) * alive,
        "test/accuracy": each(accuracy),
    }
    steps = {0: start, 200: early, 400: early, last: early | final}
    tables = [pd.DataFrame({"step": step, "replica": range(replicas), **values}) for step, values in steps.items()]
    return pd.concat(tables, ignore_index=True)


def numbers(
    runs: Mapping[str, pd.DataFrame],
    *,
    growth: float = 1e-6,
    digest: str = "a",
    configs: Mapping[str, Mapping[str, Any]] | None = None,
) -> Numbers:
    """Results, or a reference, of runs."""
    records = {
        name: {"config": (configs or {}).get(name, config()), "inputs": INPUTS, "outputs": OUTPUTS, "probe": IMAGES}
        for name in runs
    }
    table = pd.concat([found.assign(run=name) for name, found in runs.items()], ignore_index=True)
    data = {"data/normalized/mnist": {"train": digest, "validation": "b", "test": "c"}}
    return Numbers(table, records, data, {name: {200: growth, 400: 2 * growth} for name in runs})
