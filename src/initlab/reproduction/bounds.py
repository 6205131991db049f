"""How far two results may differ at step 0 by rounding alone.

    B probe images, n_l fan_in and D_l width of layer l, S batch size
    w_l              standard deviation of the weights
    a_l, z_l, d_l    root mean squares of activations, pre-activations, and of dL/dz of one image; a_0 = 1, since images
                     are normalised
    s_l              root mean square of the activation's slope: of ReLU from the fraction of saturated units, of others
                     the largest slope
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
sqrt(N) u for the statistic's own sum. That is on the safe side, since errors of entries partly cancel. A cosine between
two images has the relative errors of both, 2 e(a_l) / a_l. The first step
is lr g_l, on S images, and sqrt(S) u w_l for what rounding does to the weights that it is added to.

ReLU's slope jumps at 0. A unit whose z is within e(z) of 0 may be active in one result and not in the other: it flips,
and with it an entry of dL/dz, six times the usual at most. With a density at 0 of at most 1 / (2 std z), of N entries
N e(z) / std z flip on average; k_l is the number that Poisson's law exceeds once in a million. On the probe, flips show
in the fraction of saturated units. Where they are rare and both results have the same fraction, k_l = 0. Other
activations are treated as if their slope jumped too, and as if no flip were seen.

Each of two results may be off by so much, so they may differ by the sum of both bounds.
Source: Higham & Mary (2019), "A new approach to probabilistic rounding error analysis", theorem 2.4.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import sqrt
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import poisson

from initlab.nn import activations
from initlab.nn.activations import Activation

U = 2.0**-24
OPERANDS = {"highest": 0.0, "high": 2.0**-11, "medium": 2.0**-9}  # of torch.set_float32_matmul_precision
CALIBRATED = "initlab.nn.init.LSUV"  # its weights are divided by a measured standard deviation
GRADIENT_DESCENT = "torch.optim.SGD"  # the first step of others is not linear in the gradient
RARELY = 1e-6
RARE = 0.5  # flips per layer and replica: two that cancel, unseen, are then rarer still
LARGEST_ENTRY = 6.0  # of dL/dz, over its root mean square
Values = Mapping[str, np.ndarray]


def product_error(terms: int, precision: str) -> float:
    """Returns how much rounding changes a product of matrices, relative to its size: sqrt(n) u + sqrt(2) v."""
    return sqrt(terms) * U + sqrt(2) * OPERANDS[precision]


def needed_statistics(layers: int) -> list[str]:
    """Returns the names of the statistics that `step0_bounds` needs of a network with so many layers."""
    every = ("preact_mean", "preact_std", "act_mean", "act_std", "delta_std", "grad_std", "weight_std", "update_ratio")
    names = [f"layer{number}/{name}" for number in range(1, layers + 1) for name in every]
    return names + [f"layer{number}/saturated_fraction" for number in range(1, layers)]


def step0_bounds(
    values: Values, config: Mapping[str, Any], widths: Sequence[int], probe: int, same_signs: Sequence[np.ndarray]
) -> dict[str, np.ndarray]:
    """Returns {"layer1/act_std": bound of its error (R,), ...} of one result, as derived above.

    values: statistics at step 0, {"layer1/act_std": (R,), ...}.  config: the run's.  widths: [inputs, hidden...,
    outputs].  probe: number of images B.  same_signs: of each hidden layer, whether both results have the same fraction
    of saturated units (R,).
    """
    precision, batch = config["matmul_precision"], config["data"]["batch_size"]
    pairs = enumerate(pairwise(widths), start=1)
    phi = _activation(config["activation"])
    layers = [_layer(values, number, *fans, probe, phi) for number, fans in pairs]
    errors_z, errors_a = _forward(layers, precision)
    flips = [layer.entries * e / layer.z_std for layer, e in zip(layers[:-1], errors_z, strict=False)]
    most = [poisson.isf(RARELY, mean) for mean in flips]
    shown = _leak(phi) is not None
    seen = [np.where(same & (f < RARE) & shown, 0, k) for same, f, k in zip(same_signs, flips, most, strict=True)]
    errors_d, errors_g = _backward(layers, errors_z[-1], errors_a, seen, precision, probe)
    share = batch / probe  # of the probe's images, in the first batch, whose flips are not seen
    unseen = [poisson.isf(RARELY, mean * share) / share for mean in flips]
    _, errors_step = _backward(layers, errors_z[-1], errors_a, unseen, precision, batch)
    bounds: dict[str, np.ndarray] = {}
    for number, layer in enumerate(layers):
        own = sqrt(layer.entries) * U, sqrt(layer.weights) * U  # of the sum over entries, and over weights
        preact, act = errors_z[number] + own[0] * layer.z, errors_a[number] + own[0] * layer.a
        found = {
            **{"preact_mean": preact, "preact_std": preact, "act_mean": act, "act_std": act},
            "delta_std": errors_d[number] + own[0] * layer.d,
            "grad_std": errors_g[number] + own[1] * layer.g,
            "weight_std": own[1] * layer.w,
        }
        if config["init"]["weights"]["_target_"] == CALIBRATED:
            found["weight_std"] += layer.w * errors_z[number] / layer.z
        if config["optimizer"]["_target_"] == GRADIENT_DESCENT:
            step = values[f"layer{number + 1}/update_ratio"]
            found["update_ratio"] = step * (2 * errors_step[number] / layer.g + own[1]) + sqrt(batch) * U
        if layer is not layers[-1]:
            k = most[number] + 0.5  # half a count, since the fraction is rounded too
            found |= {"saturated_fraction": k / layer.entries, "dead_fraction": k / layer.fan_out}
            found["act_cosine"] = 2 * errors_a[number] / layer.a + sqrt(layer.entries) * U
        bounds |= {f"layer{number + 1}/{name}": bound for name, bound in found.items()}
    return bounds


class _Layer(NamedTuple):
    """Sizes of one layer, and what was measured of it at step 0, of each replica (R,): the symbols above."""

    fan_in: int
    fan_out: int
    entries: int  # of z
    weights: int
    w: np.ndarray
    z: np.ndarray
    z_std: np.ndarray
    a: np.ndarray
    d: np.ndarray
    g: np.ndarray
    s: np.ndarray


def _activation(config: Mapping[str, Any]) -> Activation:
    constants = {name: value for name, value in config.items() if name != "_target_"}
    return getattr(activations, config["_target_"].rpartition(".")[2])(**constants)


def _leak(phi: Activation) -> float | None:
    """Returns the leak of a ReLU whose saturated units are those with z <= 0; None for other activations."""
    leak = float(phi.leak) if isinstance(phi, activations.ReLU) else 1.0
    return leak if abs(leak) < activations.SATURATED else None


def _layer(values: Values, number: int, fan_in: int, fan_out: int, probe: int, phi: Activation) -> _Layer:
    def measured(statistic: str) -> np.ndarray:
        return values[f"layer{number}/{statistic}"].astype(float)

    z, a = (np.hypot(measured(f"{name}_mean"), measured(f"{name}_std")) for name in ("preact", "act"))
    w, z_std, d, g = (measured(f"{name}_std") for name in ("weight", "preact", "delta", "grad"))
    s = np.ones_like(z)  # the last layer is linear
    saturated = values.get(f"layer{number}/saturated_fraction")
    if saturated is not None:
        leak = _leak(phi)
        squares = np.square(phi.largest_slope) if leak is None else 1 - saturated * (1 - leak**2)
        s = phi.scale * np.sqrt(squares) * s
    return _Layer(fan_in, fan_out, fan_out * probe, fan_out * fan_in, w, z, z_std, a, d, g, s)


def _forward(layers: Sequence[_Layer], precision: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Returns e(z_l) and e(a_l) of all layers, each (R,)."""
    errors_z, errors_a = [], []
    error, a = np.zeros_like(layers[0].w), np.ones_like(layers[0].w)
    for layer in layers:
        errors_z.append(sqrt(layer.fan_in) * layer.w * (error + product_error(layer.fan_in, precision) * a))
        error, a = layer.s * (errors_z[-1] + 3 * U * layer.z), layer.a
        errors_a.append(error)
    return errors_z, errors_a


def _backward(
    layers: Sequence[_Layer],
    error_z: np.ndarray,
    errors_a: Sequence[np.ndarray],
    flips: Sequence[np.ndarray],
    precision: str,
    images: int,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Returns e(d_l) and e(g_l) of all layers, each (R,), from e(z_L), e(a_l) and k_l, the number of flips.

    images: number that g_l is a mean over.
    """
    errors_d = [2 * error_z + 4 * U]
    for layer, above, k in zip(layers[-2::-1], layers[:0:-1], flips[::-1], strict=True):
        relative = product_error(above.fan_out, precision) + LARGEST_ENTRY * np.sqrt(k / layer.entries)
        errors_d.insert(0, layer.s * sqrt(above.fan_out) * above.w * (errors_d[0] + relative * above.d))
    rounding = U + sqrt(2 / images) * OPERANDS[precision]
    inputs = [
        (np.zeros_like(error_z), np.ones_like(error_z)),
        *zip(errors_a, (layer.a for layer in layers), strict=True),
    ]
    errors_g = [
        error_d * a + layer.d * (error_a + rounding * a)
        for layer, error_d, (error_a, a) in zip(layers, errors_d, inputs, strict=False)
    ]
    return errors_d, errors_g
