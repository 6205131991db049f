"""Where the time of a step goes: each part of the maths, timed within the step, in one process."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pandas as pd
import torch

from benchmarks.measure import TRAINED
from benchmarks.peers import BATCH, CLASSES, HIDDEN, LEARNING_RATE, splits
from initlab.nn import init, mlp
from initlab.nn.activations import Activation, ReLU
from initlab.nn.losses import CrossEntropy

REPLICAS = 1, 8, 32
PARTS = "gathering the batch", "W1 x", "W1 -= lr delta x^T", "second layer's products", "loss", "activation", "the rest"


def table(rounds: int) -> pd.DataFrame:
    """One row per part: microseconds per step and its share, for each number of replicas."""
    columns = {replicas: _parts(replicas, steps=400 * rounds // replicas**0.5) for replicas in REPLICAS}
    rows = []
    for part in PARTS:
        row: dict[str, Any] = {"part": part}
        for replicas, found in columns.items():
            row[f"us, {replicas}"] = f"{found[part]:.0f} ({found[part] / sum(found.values()):.0%})"
        rows.append(row)
    return pd.DataFrame(rows)


def _parts(replicas: int, steps: float) -> dict[str, float]:
    """Returns {part: microseconds per step}."""
    x, y, *_ = splits()
    phi, loss = ReLU(), CrossEntropy(CLASSES)
    weights, biases = init.draw(init.kaiming(), [784, HIDDEN, CLASSES], replicas=replicas, seed=0)
    order = torch.randperm(TRAINED)
    spent: dict[str, float] = defaultdict(float)
    with _timed(spent), torch.no_grad():
        for warming in (True, False):
            spent.clear()
            begun = time.perf_counter()
            for number in range(50 if warming else int(steps)):
                rows = order[number * BATCH % (TRAINED - BATCH) :][:BATCH]
                since = time.perf_counter()
                some, digits = x.index_select(0, rows).mT, y.index_select(0, rows)
                spent["gathering the batch"] += time.perf_counter() - since
                mlp.sgd_step(some, digits, weights, biases, phi, loss, lr=LEARNING_RATE)
            total = time.perf_counter() - begun
    spent["the rest"] = total - sum(spent.values())
    return {part: 1e6 * spent[part] / int(steps) for part in PARTS}


@contextmanager
def _timed(spent: dict[str, float]) -> Iterator[None]:
    """Within the context, adds up the time that the functions of `mlp` take, by part."""

    def wrap(function: Callable, part: Callable[..., str]) -> Callable:
        def timed(*arguments: Any, **options: Any) -> Any:
            begun = time.perf_counter()
            result = function(*arguments, **options)
            spent[part(*arguments)] += time.perf_counter() - begun
            return result

        return timed

    second = "second layer's products"
    with (
        patch.object(mlp, "linear", wrap(mlp.linear, lambda a, W, b: "W1 x" if a.dim() == 2 else second)),
        patch.object(
            mlp,
            "linear_sgd_step",
            wrap(mlp.linear_sgd_step, lambda W, b, a, delta: "W1 -= lr delta x^T" if a.dim() == 2 else second),
        ),
        patch.object(mlp, "linear_backward_input", wrap(mlp.linear_backward_input, lambda W, delta: second)),
        patch.object(CrossEntropy, "__call__", wrap(CrossEntropy.__call__, lambda self, z, y: "loss")),
        patch.object(Activation, "__call__", wrap(Activation.__call__, lambda self, z: "activation")),
        patch.object(Activation, "backward", wrap(Activation.backward, lambda self, z, grad: "activation")),
    ):
        yield
