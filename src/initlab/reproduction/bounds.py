"""How far two results may differ at step 0 by rounding alone.

    B probe images, n_l fan_in and D_l width of layer l, S batch size
    w_l              standard deviation of the weights
    a_l, z_l, d_l    root mean squares of activations, pre-activations, and of dL/dz of one image; a_0 = 1, since images
                     are normalised
    s_l              root mean square of the activation's slope: of the ReLU family from the fraction of inactive units,
                     of others its scale
    u                unit roundoff of float32, 2^-24
    v                unit roundoff of the numbers that are multiplied: 0 in float32, 2^-11 in TF32, 2^-9 in bfloat16

One rule serves for all sums: rounding changes a sum of n terms by sqrt(n) u times their root sum of squares. Errors of
single additions are as good as independent and of mean zero, so they grow like sqrt(n) and not like n. Added up one
after the other they come to sqrt(n / 6) u; other orders have smaller ones. Rounding the operands first adds sqrt(2) v.
A product of layer l sums n_l terms of size w_l a_{l-1}, so the root mean square of its error is

    e(z_l) <= sqrt(n_l) w_l (e(a_{l-1}) + (sqrt(n_l) u + sqrt(2) v) a_{l-1})
    e(a_l) <= s_l (e(z_l) + 3 u z_l)
    e(d_L) <= 2 e(z_L) + 4 u                     slopes of softmax and of squared error are at most 2
    e(d_l) <= s_l sqrt(D_{l+1}) w_{l+1} (e(d_{l+1}) + (sqrt(D_{l+1}) u + sqrt(2) v + 6 sqrt(k_l / (D_l B))) d_{l+1})
    e(g_l) <= e(d_l) a_{l-1} + d_l e(a_{l-1}) + (u + sqrt(2 / B) v) d_l a_{l-1},         g_l = dL/dW_l

The error of a mean or a standard deviation over N entries is at most the root mean square of their errors, plus
sqrt(N) u for the statistic's own sum. That is on the safe side, since errors of entries partly cancel. The first step
is lr g_l, on S images, and sqrt(S) u w_l for what rounding does to the weights that it is added to.

ReLU's slope jumps at 0. A unit whose z is within e(z) of 0 may be active in one result and not in the other: it flips,
and with it an entry of dL/dz, six times the usual at most. With a density at 0 of at most 1 / (2 std z), of N entries
N e(z) / std z flip on average; k_l is the number that Poisson's law exceeds once in a million. On the probe, flips show
in the fraction of inactive units. Where they are rare and both results have the same fraction, k_l = 0.

Each of two results may be off by so much, so they may differ by the sum of both bounds.
Source: Higham & Mary (2019), "A new approach to probabilistic rounding error analysis", theorem 2.4.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import sqrt
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import poisson

U = 2.0**-24
OPERANDS = {"highest": 0.0, "high": 2.0**-11, "medium": 2.0**-9}  # of torch.set_float32_matmul_precision
CALIBRATED = "initlab.nn.init.LSUV"  # its weights are divided by a measured standard deviation
RARE = 0.5  # flips per layer and replica: two that cancel, unseen, are then rarer still
LARGEST_ENTRY = 6.0  # of dL/dz, over its root mean square
Values = Mapping[str, np.ndarray]


class _Layer(NamedTuple):
    """Sizes of one layer, and what was measured of it at step 0, of each replica (R,): the symbols above."""

    name: str
    fan_in: int
    fan_out: int
    entries: int
    w: np.ndarray
    z: np.ndarray
    z_std: np.ndarray
    a: np.ndarray
    d: np.ndarray
    g: np.ndarray
    s: np.ndarray


def _layer(values: Values, number: int, fan_in: int, fan_out: int, probe: int, activation: Mapping[str, Any]) -> _Layer:
    def measured(statistic: str) -> np.ndarray:
        return values[f"layer{number}/{statistic}"].astype(float)

    z, a = (np.hypot(measured(f"{name}_mean"), measured(f"{name}_std")) for name in ("preact", "act"))
    z_std, d, g = (measured(name) for name in ("preact_std", "delta_std", "grad_std"))
    inactive = values.get(f"layer{number}/inactive_fraction", np.zeros_like(z))  # the last layer is linear
    s = activation.get("scale", 1) * np.sqrt(1 - inactive * (1 - activation.get("leak", 1) ** 2))
    return _Layer(f"layer{number}", fan_in, fan_out, fan_out * probe, measured("weight_std"), z, z_std, a, d, g, s)


def product_error(terms: int, precision: str) -> float:
    """Returns how much rounding changes a product of matrices, relative to its size: sqrt(n) u + sqrt(2) v."""
    return sqrt(terms) * U + sqrt(2) * OPERANDS[precision]


def step0_bounds(
    values: Values, config: Mapping[str, Any], widths: Sequence[int], probe: int, same_signs: Sequence[np.ndarray]
) -> dict[str, np.ndarray]:
    """Returns {"layer1/act_std": bound of its error (R,), ...} of one result, as derived above.

    values: statistics at step 0, {"layer1/act_std": (R,), ...}.  config: the run's.  widths: [inputs, hidden...,
    outputs].  probe: number of images B.  same_signs: of each hidden layer, whether both results have the same fraction
    of inactive units (R,).
    """
    precision, batch = config["matmul_precision"], config["data"]["batch_size"]
    activation = config["init"]["activation"]
    layers = [
        _layer(values, number, fan_in, fan_out, probe, activation)
        for number, (fan_in, fan_out) in enumerate(pairwise(widths), start=1)
    ]
    bounds: dict[str, np.ndarray] = {}
    error_a, a = np.zeros_like(layers[0].w), np.ones_like(layers[0].w)
    errors_a, inputs, flips, most = [], [], [], []
    for layer in layers:
        hidden = layer is not layers[-1]
        error_z = sqrt(layer.fan_in) * layer.w * (error_a + product_error(layer.fan_in, precision) * a)
        errors_a.append(error_a)
        inputs.append(a)
        error_a = layer.s * (error_z + 3 * U * layer.z) if hidden else error_z
        a = layer.a
        for name, error, size in (("preact", error_z, layer.z), ("act", error_a, a)):
            for statistic in ("mean", "std"):
                bounds[f"{layer.name}/{name}_{statistic}"] = error + sqrt(layer.entries) * U * size
        bounds[f"{layer.name}/weight_std"] = sqrt(layer.fan_in * layer.fan_out) * U * layer.w
        if config["init"]["weights"]["_target_"] == CALIBRATED:
            bounds[f"{layer.name}/weight_std"] += layer.w * error_z / layer.z
        if hidden:
            flips.append(layer.entries * error_z / layer.z_std)
            most.append(poisson.isf(1e-6, flips[-1]))
            bounds[f"{layer.name}/inactive_fraction"] = (most[-1] + 0.5) / layer.entries  # half: it is rounded too
            bounds[f"{layer.name}/dead_fraction"] = (most[-1] + 0.5) / layer.fan_out
    seen = [
        np.where(same & (mean < RARE), 0, poisson.isf(1e-6, mean)) for mean, same in zip(flips, same_signs, strict=True)
    ]
    share = batch / probe
    unseen = [poisson.isf(1e-6, mean * share) / share for mean in flips]  # in the first batch, as if on the probe
    for flipped, first_step in ((seen, False), (unseen, True)):
        error_d = 2 * error_z + 4 * U
        for index in reversed(range(len(layers))):
            layer = layers[index]
            if index < len(layers) - 1:
                above = layers[index + 1]
                jump = LARGEST_ENTRY * np.sqrt(flipped[index] / layer.entries)
                relative = product_error(above.fan_out, precision) + jump
                error_d = layer.s * sqrt(above.fan_out) * above.w * (error_d + relative * above.d)
            images = batch if first_step else probe
            rounding = U + sqrt(2 / images) * OPERANDS[precision]
            error_g = error_d * inputs[index] + layer.d * (errors_a[index] + rounding * inputs[index])
            if first_step:
                step = values[f"{layer.name}/update_ratio"]
                relative = 2 * error_g / layer.g + sqrt(layer.fan_in * layer.fan_out) * U
                bounds[f"{layer.name}/update_ratio"] = (
                    relative * step + sqrt(batch) * U
                )  # W - lr g is rounded to W's digits
            else:
                bounds[f"{layer.name}/delta_std"] = error_d + sqrt(layer.entries) * U * layer.d
                bounds[f"{layer.name}/grad_std"] = error_g + sqrt(layer.fan_in * layer.fan_out) * U * layer.g
    return bounds
