"""The statistics measured of each layer: {name: function}.

A statistic is a function of one layer's tensors that returns one value per replica. To add one, add a line here.
"""

from collections.abc import Callable
from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor

BINS, LOW, HIGH = 64, -1.0, 7.0  # of a histogram: its bins are 1/8 wide, so that 0 and a shift of 0.5 are edges
INNER = (-2, -1)  # a statistic is taken over everything but the replicas


class LayerTensors(NamedTuple):
    """Tensors of one layer on a batch of B images, with a leading replica axis.

    z: pre-activations (R, D, B).  a: activations (R, D, B).  delta: dL/dz (R, D, B), L the mean over the batch.
    W: weights (R, D, E).  gW: dL/dW (R, D, E).  saturated: where |phi'(z)| is small (R, D, B): `Activation.saturated`.
    """

    z: Tensor
    a: Tensor
    delta: Tensor
    W: Tensor
    gW: Tensor  # noqa: N815 (the formula's name)
    saturated: Tensor


def std(x: Tensor) -> Tensor:
    """Standard deviation over all entries of a layer, |x - mean| / sqrt(n - 1): (R, D, E) -> (R,).

    torch.std is an order of magnitude slower: it computes mean and squares in one pass, entry by entry.
    """
    x = x.flatten(-2)
    return torch.linalg.vector_norm(x - x.mean(-1, keepdim=True), dim=-1) / sqrt(x.shape[-1] - 1)


ALL_LAYERS: dict[str, Callable[[LayerTensors], Tensor]] = {
    "preact_mean": lambda layer: layer.z.mean(INNER),
    "preact_std": lambda layer: std(layer.z),
    "act_mean": lambda layer: layer.a.mean(INNER),
    "act_std": lambda layer: std(layer.a),
    "delta_std": lambda layer: std(layer.delta) * layer.delta.shape[-1],  # of one image's loss: x B
    "grad_std": lambda layer: std(layer.gW),
    "weight_std": lambda layer: std(layer.W),
}

# For hidden layers only, since the last layer is linear. A unit is dead if it is saturated on every image of the batch.
# All of them are NaN for a replica whose pre-activations contain a NaN.
HIDDEN_LAYERS: dict[str, Callable[[LayerTensors], Tensor]] = {
    "dead_fraction": lambda layer: layer.saturated.all(-1).float().mean(-1) + _nan_if_any(layer.z),
    "saturated_fraction": lambda layer: layer.saturated.float().mean(INNER) + _nan_if_any(layer.z),
    "act_cosine": lambda layer: mean_cosine(layer.a) + _nan_if_any(layer.z),
}


def mean_cosine(a: Tensor) -> Tensor:
    """Mean of a_i.a_j / (|a_i| |a_j|) over all pairs of different images: (R, D, B) -> (R,).

    With columns u_i = a_i / |a_i| it is (|sum_i u_i|^2 - n) / (n (n - 1)), n images. Images without any activation are
    left out, and if fewer than two are left it is NaN. Columns are divided by their largest entry first, whose square
    might not be within float32's range.
    """
    largest = a.abs().amax(-2, keepdim=True)  # (R, 1, B)
    u = torch.where(largest > 0, a / largest, 0)
    u = u / torch.linalg.vector_norm(u, dim=-2, keepdim=True).clamp_min(1)  # a column's norm is 0, or at least 1
    n = (largest > 0).sum(INNER)  # (R,)
    return (u.sum(-1).square().sum(-1) - n) / (n * (n - 1))


def _nan_if_any(z: Tensor) -> Tensor:
    """Returns 0, or NaN for a replica that contains a NaN: (R, D, B) -> (R,)."""
    return torch.where(z.isnan().flatten(-2).any(-1), torch.nan, 0.0)  # on some devices, amax ignores a NaN


def measure(layers: list[LayerTensors]) -> dict[str, Tensor]:
    """Returns the statistics of all layers, first layer first: {"layer1/act_mean": (R,), ...}."""
    values: dict[str, Tensor] = {}
    for number, layer in enumerate(layers, start=1):
        functions = ALL_LAYERS if number == len(layers) else ALL_LAYERS | HIDDEN_LAYERS
        values |= {f"layer{number}/{name}": function(layer) for name, function in functions.items()}
    return values


def histogram(a: Tensor) -> Tensor:
    """Counts the values of a, over all replicas, in BINS bins from LOW to HIGH: (R, D, B) -> (BINS,).

    Values beyond either end are counted in the outermost bin, and NaN in none. torch.histc counts the same, but raises
    on CUDA if deterministic algorithms are asked for, and torch.bincount waits for the device.
    """
    place = (a.clamp(LOW, HIGH) - LOW) * (BINS / (HIGH - LOW))
    place = torch.where(a.isnan(), BINS, place.clamp_max(BINS - 1)).long().flatten()  # BINS: an extra bin, for NaN
    return a.new_zeros(BINS + 1).scatter_add_(0, place, a.new_ones(()).expand_as(place))[:BINS]


def update_ratio(before: Tensor, after: Tensor) -> Tensor:
    """Size of an optimiser step relative to the weights, std(W' - W) / std(W): (R, D, E), (R, D, E) -> (R,)."""
    return std(after - before) / std(before)
