"""Mean-field theory of a network at initialisation: moments of each layer in the limit of wide layers.

    n_l, v_l, u_l   fan_in of layer l, variance of its weights, variance of its biases; all means are zero
    q_l(x)          second moment over draws of a pre-activation z_l, for one image x

    q_1(x) = v_1 |x|^2 + u_1
    q_{l+1}(x) = n_{l+1} v_{l+1} E[phi(z)^2] + u_{l+1},   z ~ N(0, q_l(x))

With independent weights, z_l is a sum of many uncorrelated terms of mean zero, so it is normal in the limit. Rows of an
orthogonal matrix have the same moments. Each image has its own q, so the moments of a layer are means over images.
Source: Poole et al. (2016), "Exponential expressivity in deep neural networks through transient chaos", eq. 3;
He et al. (2015), "Delving Deep into Rectifiers", eq. 7 to 14, for ReLU.
"""

from collections.abc import Sequence
from math import isclose, pi, sqrt
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike


class Phi(Protocol):
    """phi(z) = scale * (max(z, 0) + leak * min(z, 0) - shift), its constants numbers: see `activations.Activation`."""

    @property
    def leak(self) -> Any: ...
    @property
    def shift(self) -> Any: ...
    @property
    def scale(self) -> Any: ...


class DrawnLayer(NamedTuple):
    """A layer as a scheme draws it.

    variance: of one weight; None if the scheme scales pre-activations to variance 1, as LSUV does.
    bias_variance: of one bias.
    """

    fan_in: int
    fan_out: int
    variance: float | None
    bias_variance: float = 0.0


class Moments(NamedTuple):
    """Moments of one layer, over draws, units and images. In the last layer, which is linear, a = z.

    preact_second: E[z^2].  act_mean: E[a].  act_second: E[a^2].  inactive_fraction: P(z <= 0).
    backward_ratio: E[delta_l^2] / E[delta_{l+1}^2], delta = dL/dz; NaN for the last layer.
    """

    preact_second: float
    act_mean: float
    act_second: float
    inactive_fraction: float
    backward_ratio: float

    @property
    def preact_mean(self) -> float:
        """E[z]: zero, since the weights have mean zero."""
        return 0.0

    @property
    def preact_std(self) -> float:
        """Standard deviation of z."""
        return sqrt(self.preact_second)

    @property
    def act_std(self) -> float:
        """Standard deviation of a."""
        return sqrt(max(self.act_second - self.act_mean**2, 0))  # rounding may take more than all


def moments(layers: Sequence[DrawnLayer], square_norms: ArrayLike, phi: Phi) -> list[Moments]:
    """Returns the moments of every layer.

    square_norms: |x|^2 of each image (N,), the second moment of its pixels times their number.
    """
    inputs = np.asarray(square_norms, dtype=float)  # n_l E[a_{l-1}^2] of each image, (N,)
    variances, found = [], []
    for number, layer in enumerate(layers, start=1):
        v = 1 / inputs.mean() if layer.variance is None else layer.variance
        q = v * inputs + layer.bias_variance  # (N,)
        variances.append(v)
        if number == len(layers):
            found.append(Moments(q.mean(), 0.0, q.mean(), 0.5, float("nan")))
        else:
            second = act_second(q, phi)
            found.append(Moments(q.mean(), act_mean(q, phi).mean(), second.mean(), 0.5, float("nan")))
            inputs = layer.fan_out * second
    ratios = [backward_ratio(layer.fan_out, v, phi) for layer, v in zip(layers[1:], variances[1:], strict=True)]
    return [m._replace(backward_ratio=ratio) for m, ratio in zip(found, [*ratios, float("nan")], strict=True)]


def act_mean(q: ArrayLike, phi: Phi) -> np.ndarray:
    """E[phi(z)], z ~ N(0, q): scale * ((1 - leak) sqrt(q / (2 pi)) - shift).

    Half a normal's mean: E[max(z, 0)] = int_0^inf z N(z; 0, q) dz = sqrt(q / (2 pi)); E[min(z, 0)] is its negative.
    """
    return phi.scale * ((1 - phi.leak) * _relu_mean(q) - phi.shift)


def act_second(q: ArrayLike, phi: Phi) -> np.ndarray:
    """E[phi(z)^2], z ~ N(0, q): scale^2 * ((1 + leak^2) q/2 - 2 shift (1 - leak) sqrt(q / (2 pi)) + shift^2).

    Each side of zero holds half of E[z^2]; their product is zero. Source: He et al. (2015), section 2.2, shift = 0.
    """
    q = np.asarray(q, dtype=float)
    return phi.scale**2 * ((1 + phi.leak**2) * q / 2 - 2 * phi.shift * (1 - phi.leak) * _relu_mean(q) + phi.shift**2)


def act_variance(q: ArrayLike, phi: Phi) -> np.ndarray:
    """Var phi(z), z ~ N(0, q): scale^2 q ((1 + leak^2)/2 - (1 - leak)^2 / (2 pi)). The shift cancels."""
    return phi.scale**2 * np.asarray(q, dtype=float) * ((1 + phi.leak**2) / 2 - (1 - phi.leak) ** 2 / (2 * pi))


def backward_ratio(fan_out: int, variance: float, phi: Phi) -> float:
    """E[delta_l^2] / E[delta_{l+1}^2] = fan_out_{l+1} v_{l+1} E[phi'(z_l)^2], and E[phi'^2] = scale^2 (1 + leak^2) / 2.

    The factors of delta_l = phi'(z_l) W_{l+1}^T delta_{l+1} are taken as independent. Source: He et al. (2015), eq. 13.
    """
    return fan_out * variance * phi.scale**2 * (1 + phi.leak**2) / 2


def zero_mean_shift(q: float, leak: float = 0.0) -> float:
    """The shift at which E[phi(z)] = 0, z ~ N(0, q): (1 - leak) sqrt(q / (2 pi)); 1 / sqrt(pi) = 0.564 at q = 2."""
    return float((1 - leak) * _relu_mean(q))


class FixedPoint(NamedTuple):
    """q* = g(q*) of a layer's map g. Near it, each layer multiplies deviations by `rate` = g'(q*)."""

    q: float
    rate: float


def fixed_point(gain: float, phi: Phi) -> FixedPoint | None:
    """Returns the smallest positive fixed point of q -> gain E[phi(z)^2], gain = fan_in v; None if none is isolated.

    With s = sqrt(q), A = gain scale^2 (1 + leak^2)/2, B = gain scale^2 shift (1 - leak) / sqrt(2 pi) and
    C = gain (scale shift)^2, it solves (A - 1) s^2 - 2 B s + C = 0, and g'(q) = A - B / s. With Kaiming's gain, A = 1;
    for ReLU then q* = pi shift^2 / 2, and the rate is 1 - 2/pi whatever the shift.
    """
    A = gain * phi.scale**2 * (1 + phi.leak**2) / 2
    B = gain * phi.scale**2 * phi.shift * (1 - phi.leak) / sqrt(2 * pi)
    C = gain * (phi.scale * phi.shift) ** 2
    if isclose(A, 1, rel_tol=1e-12):
        roots = [C / (2 * B)] if B != 0 else []
    else:
        root = sqrt(max(B**2 - (A - 1) * C, 0)) if B**2 > (A - 1) * C * (1 - 1e-12) else float("nan")
        roots = [(B - root) / (A - 1), (B + root) / (A - 1)]
    s = min((s for s in roots if s > 0), default=None)
    return None if s is None else FixedPoint(s**2, A - B / s)


def preact_mean_spread(x_mean: ArrayLike, variance: float, width: int) -> float:
    """Standard deviation over draws of the first layer's mean pre-activation: |x_mean| sqrt(v / width).

    x_mean: the mean image (inputs,). The mean over images of w.x is w.x_mean, with variance v |x_mean|^2, and the layer
    averages `width` of these. Exact at any width.
    """
    return float(np.linalg.norm(np.asarray(x_mean, dtype=float))) * sqrt(variance / width)


def _relu_mean(q: ArrayLike) -> np.ndarray:
    """E[max(z, 0)], z ~ N(0, q)."""
    return np.sqrt(np.asarray(q, dtype=float) / (2 * pi))
