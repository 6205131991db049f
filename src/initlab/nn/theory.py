"""Mean-field theory of a network at initialisation: moments of each layer in the limit of wide layers.

    n_l, v_l, u_l   fan_in of layer l, variance of its weights, variance of its biases; all means are zero
    q_l(x)          second moment over draws of a pre-activation z_l, for one image x
    k_l(x, y)       E[z_l(x) z_l(y)] for two images;  c = k / sqrt(q(x) q(y)) is their correlation

    q_1(x) = v_1 |x|^2 + u_1,                               k_1(x, y) = v_1 x.y + u_1
    q_{l+1}(x) = n_{l+1} v_{l+1} E[phi(z)^2] + u_{l+1},     k_{l+1}(x, y) = n_{l+1} v_{l+1} E[phi(z) phi(z')] + u_{l+1}

with z, z' normal of variances q_l and correlation c_l. With independent weights, z_l is a sum of many uncorrelated
terms of mean zero, so it is normal in the limit. Rows of an orthogonal matrix have the same moments. Each image has its
own q, so the moments of a layer are means over images. In a network whose layers are alike, with sigma_w^2 = n v and
sigma_b^2 = u, each layer takes q to sigma_w^2 E[phi(z)^2] + sigma_b^2. This map has fixed points.
Source: Poole et al. (2016), "Exponential expressivity in deep neural networks through transient chaos", eq. 3 to 6;
Schoenholz et al. (2017), "Deep information propagation", for depth scales; He et al. (2015), "Delving Deep into
Rectifiers", eq. 7 to 14, for ReLU.
"""

from collections.abc import Callable, Sequence
from math import inf, isclose, log, nan, pi, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from initlab.nn import gaussian
from initlab.nn.gaussian import Phi

Array = np.ndarray


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

    preact_second: E[z^2].  act_mean: E[a].  act_second: E[a^2].  saturated_fraction: see `gaussian`; NaN for the last.
    act_cosine: mean of E[a(x) a(y)] / sqrt(E[a(x)^2] E[a(y)^2]) over pairs of images; NaN if they are not given.
    backward_ratio: E[delta_l^2] / E[delta_{l+1}^2], delta = dL/dz; NaN for the last layer.
    """

    preact_second: float
    act_mean: float
    act_second: float
    saturated_fraction: float
    act_cosine: float
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


def moments(
    layers: Sequence[DrawnLayer], square_norms: ArrayLike, phi: Phi, products: ArrayLike | None = None
) -> list[Moments]:
    """Returns the moments of every layer. Where they exceed what a float holds, they are infinite or NaN.

    square_norms: |x|^2 of each image (N,), the second moment of its pixels times their number.
    products: x.y of the first n images (n, n), for `act_cosine`.
    """
    inputs = np.asarray(square_norms, dtype=float)  # n_l E[a_{l-1}^2] of each image, (N,)
    pairs = np.empty((0, 0)) if products is None else np.asarray(products, dtype=float)  # n_l E[a a'] (n, n)
    first = slice(len(pairs))
    found: list[Moments] = []
    q, ratios = np.empty(0), []
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for number, layer in enumerate(layers, start=1):
            v = 1 / inputs.mean() if layer.variance is None else layer.variance
            if number > 1:
                ratios.append(backward_ratio(layer.fan_out, v, q, phi))
            q = v * inputs + layer.bias_variance  # (N,)
            if number == len(layers):
                found.append(Moments(q.mean(), 0.0, q.mean(), nan, nan, nan))
                break
            std = np.sqrt(q[first])
            c = (v * pairs + layer.bias_variance) / std[:, None] / std  # (n, n)
            second, pairs = act_second(q, phi), act_product(q[first, None], q[None, first], c, phi)
            saturated = gaussian.saturated_fraction(q, phi).mean()
            cosine = _mean_cosine(second[first], pairs)
            found.append(Moments(q.mean(), act_mean(q, phi).mean(), second.mean(), saturated, cosine, nan))
            inputs, pairs = layer.fan_out * second, layer.fan_out * pairs
    return [m._replace(backward_ratio=ratio) for m, ratio in zip(found, [*ratios, nan], strict=True)]


def _mean_cosine(second: Array, products: Array) -> float:
    """Mean of products / sqrt(second second') over pairs of different images (n,), (n, n); NaN if n < 2."""
    n = len(second)
    if n < 2:
        return nan
    std = np.sqrt(second)
    return float((products / std[:, None] / std)[~np.eye(n, dtype=bool)].mean())


def act_mean(q: ArrayLike, phi: Phi) -> Array:
    """E[phi(z)] = scale * (E[f(z)] - shift), z ~ N(0, q)."""
    return phi.scale * (gaussian.f_mean(q, phi) - phi.shift)


def act_second(q: ArrayLike, phi: Phi) -> Array:
    """E[phi(z)^2] = scale^2 * (E[f(z)^2] - 2 shift E[f(z)] + shift^2), z ~ N(0, q)."""
    return phi.scale**2 * (gaussian.f_second(q, phi) - 2 * phi.shift * gaussian.f_mean(q, phi) + phi.shift**2)


def act_product(q1: ArrayLike, q2: ArrayLike, c: ArrayLike, phi: Phi) -> Array:
    """E[phi(z) phi(z')], z and z' normal of variances q1, q2 and correlation c, which broadcast."""
    means = gaussian.f_mean(q1, phi) + gaussian.f_mean(q2, phi)
    return phi.scale**2 * (gaussian.f_product(q1, q2, c, phi) - phi.shift * means + phi.shift**2)


def act_variance(q: ArrayLike, phi: Phi) -> Array:
    """Var phi(z) = scale^2 * (E[f(z)^2] - E[f(z)]^2), z ~ N(0, q). The shift cancels."""
    return phi.scale**2 * (gaussian.f_second(q, phi) - gaussian.f_mean(q, phi) ** 2)


def backward_ratio(fan_out: int, variance: float, q: ArrayLike, phi: Phi) -> float:
    """E[delta_l^2] / E[delta_{l+1}^2] = fan_out_{l+1} v_{l+1} E[phi'(z_l)^2], z_l ~ N(0, q), its mean over images.

    The factors of delta_l = phi'(z_l) W_{l+1}^T delta_{l+1} are taken as independent. Source: He et al. (2015), eq. 13.
    """
    return fan_out * variance * phi.scale**2 * float(gaussian.slope_second(q, phi).mean())


def zero_mean_shift(q: float, leak: float = 0.0) -> float:
    """The shift at which E[phi(z)] = 0, z ~ N(0, q): (1 - leak) sqrt(q / (2 pi)); 1 / sqrt(pi) = 0.564 at q = 2."""
    return float((1 - leak) * gaussian.relu_mean(q))


def unit_gain(phi: Phi) -> float:
    """1 / E[phi(z)^2], z ~ N(0, 1): weights of variance unit_gain / fan_in keep E[z^2] = 1.

    Raises ValueError if E[phi(z)^2] is zero or not finite.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        second = float(act_second(1.0, phi))
    if not 0 < second < inf:
        raise ValueError(f"gain is 'auto'; expected an activation with a finite E[phi(z)^2], {phi} has {second}")
    return 1 / second


class FixedPoint(NamedTuple):
    """q* = g(q*) of a layer's map g. Near it, each layer multiplies deviations by `rate` = g'(q*)."""

    q: float
    rate: float


def fixed_point(gain: float, phi: Phi, bias_variance: float = 0.0) -> FixedPoint | None:
    """Returns the smallest positive fixed point of q -> gain E[phi(z)^2] + u, gain = fan_in v; None if not isolated.

    Of the ReLU family, with s = sqrt(q), A = gain scale^2 (1 + leak^2)/2, C = gain (scale shift)^2 + u and
    B = gain scale^2 shift (1 - leak) / sqrt(2 pi), it solves (A - 1) s^2 - 2 B s + C = 0. With Kaiming's gain, A = 1;
    for ReLU then q* = pi shift^2 / 2, and the rate is 1 - 2/pi whatever the shift. Others are bracketed on a grid.
    """
    if phi.leak is None:
        q = _smallest_root(lambda q: gain * act_second(q, phi) + bias_variance - q, np.logspace(-12, 12, 241))
        return None if q is None else FixedPoint(q, _rate(q, gain, phi))
    A = gain * phi.scale**2 * (1 + phi.leak**2) / 2
    B = gain * phi.scale**2 * phi.shift * (1 - phi.leak) / sqrt(2 * pi)
    C = gain * (phi.scale * phi.shift) ** 2 + bias_variance
    if isclose(A, 1, rel_tol=1e-12):
        roots = [C / (2 * B)] if B != 0 else []
    else:
        root = sqrt(max(B**2 - (A - 1) * C, 0)) if B**2 > (A - 1) * C * (1 - 1e-12) else nan
        roots = [(B - root) / (A - 1), (B + root) / (A - 1)]
    s = min((s for s in roots if s > 0), default=None)
    return None if s is None else FixedPoint(s**2, A - B / s)


def _rate(q: float, gain: float, phi: Phi) -> float:
    """d/dq of the map at q."""
    return float(gain * phi.scale**2 * gaussian.second_rate(q, phi))


def _smallest_root(function: Callable[[Array], Array], grid: Array) -> float | None:
    """Returns the smallest x at which a function changes its sign between two points of an ascending grid."""
    above = function(grid) >= 0
    (at,) = np.nonzero(above[1:] != above[:-1])
    if not len(at):
        return None
    low, high = grid[at[0]], grid[at[0] + 1]
    for _ in range(80):
        middle = (low + high) / 2
        same = (function(np.array([middle]))[0] >= 0) == above[at[0]]
        low, high = (middle, high) if same else (low, middle)
    return float(low)


class Propagation(NamedTuple):
    """What depth does to a signal: fixed points of q and of the correlation c, and how fast they are reached.

    q: fixed point q*; 0 or infinite if q tends to that, NaN if every q is one.  q_rate: factor per layer of a deviation
    from q*; NaN without one.
    chi_1: sigma_w^2 E[phi'(z)^2] at q*: factor per layer of a gradient's square, and of a small difference between two
    images. Below 1 they become alike (order), above 1 they move apart (chaos). NaN if q is infinite.
    c: fixed point c* of the correlation of two images.  c_rate: factor per layer of a deviation from it.
    """

    q: float
    q_rate: float
    chi_1: float
    c: float
    c_rate: float

    @property
    def xi_q(self) -> float:
        """Depth scale of q, in layers: deviations shrink as exp(-l / xi_q). Infinite if they do not."""
        return depth_scale(self.q_rate)

    @property
    def xi_c(self) -> float:
        """Depth scale of c, in layers: the depth to which a difference between images survives."""
        return depth_scale(self.c_rate)


def depth_scale(rate: float) -> float:
    """-1 / log |rate|, in layers; infinite at a rate of 1 or more. Source: Schoenholz et al. (2017), eq. 9 and 13."""
    if np.isnan(rate):
        return nan
    if abs(rate) > 1 - 1e-9:
        return inf
    return 0.0 if rate == 0 else -1 / log(abs(rate))


def propagation(gain: float, phi: Phi, bias_variance: float = 0.0) -> Propagation:
    """Returns the fixed points of a network whose layers all have sigma_w^2 = gain and sigma_b^2 = bias_variance.

    Where q has none, chi_1 and c are those of small q: to a ReLU without shift and biases every q is the same.
    """
    point = fixed_point(gain, phi, bias_variance)
    q = 1e-12 if point is None else point.q
    norm = gain * float(act_second(q, phi)) + bias_variance  # q at the next layer: q itself at a fixed point
    chi_1 = gain * phi.scale**2 * float(gaussian.slope_second(q, phi))
    if point is None:
        after = gain * float(act_second(1.0, phi)) + bias_variance
        if phi.leak is not None and phi.shift == 0 and bias_variance == 0 and isclose(after, 1, rel_tol=1e-9):
            point = FixedPoint(nan, nan)
        elif after < 1:
            point = FixedPoint(0.0, nan)
        else:
            point = FixedPoint(inf, nan)
            chi_1 = chi_1 if phi.leak is not None and phi.shift == 0 and bias_variance == 0 else nan
    c_rate = chi_1 * q / norm
    if not c_rate > 1 + 1e-9:
        return Propagation(*point, chi_1, 1.0 if c_rate == c_rate else nan, c_rate)
    below_one = np.array([-1e-9, *1 - np.logspace(0, -12, 1201)[1:]])
    c = _smallest_root(lambda c: correlation_map(c, q, gain, phi, bias_variance) - c, below_one)
    c = 1.0 if c is None else max(c, 0.0)
    return Propagation(*point, chi_1, c, gain * phi.scale**2 * float(gaussian.slope_product(q, c, phi)) * q / norm)


def correlation_map(c: ArrayLike, q: float, gain: float, phi: Phi, bias_variance: float = 0.0) -> Array:
    """c -> c' of one layer, for two images with the same q: (gain E[phi(z) phi(z')] + u) / (gain E[phi(z)^2] + u).

    Source: Poole et al. (2016), eq. 6.
    """
    norm = gain * act_second(q, phi) + bias_variance
    return (gain * act_product(q, q, c, phi) + bias_variance) / norm


class Critical(NamedTuple):
    """sigma_w^2 and sigma_b^2 with chi_1 = 1, and the q* that they have."""

    weight: float
    bias: float
    q: float


def critical(phi: Phi, bias_variance: float | None = None) -> Critical:
    """Returns the point of the edge of chaos, chi_1 = 1, with sigma_b^2 = bias_variance; with the smallest, if None.

    The smallest is that of a grid of q, 25 per decade.

    Each q is the fixed point of exactly one network with chi_1 = 1: sigma_w^2 = 1 / E[phi'^2] and
    sigma_b^2 = q - sigma_w^2 E[phi^2]. Only those count whose q* is not repelling: elsewhere the scale leaves q*, and
    with it the edge. Of those with the given sigma_b^2 the one of smallest q is returned.
    Raises ValueError if there is none, with the nearest that there is.
    Source: Hayou, Doucet & Rousseau (2019), "On the impact of the activation function on deep neural networks
    training", section 3.1.
    """
    grid = np.logspace(-6, 10, 401)

    def weight(q: ArrayLike) -> Array:
        return 1 / (phi.scale**2 * gaussian.slope_second(q, phi))

    def bias(q: ArrayLike) -> Array:
        return q - weight(q) * act_second(q, phi)

    rates = weight(grid) * phi.scale**2 * gaussian.second_rate(grid, phi)
    kept = grid[rates < 1 + 1e-8]
    biases = bias(kept)
    biases[abs(biases) < np.where(kept == grid[0], 1e-5, 1e-12) * kept] = 0  # what is left of q -> 0, and rounding
    if not (biases >= 0).any():
        raise ValueError(f"{phi.name} has no critical point at any sigma_b: the scale would grow from layer to layer")
    target = max(biases.min(), 0.0) if bias_variance is None else bias_variance
    if target in biases:
        q = float(kept[np.argmax(biases == target)])
        q = 1e-14 if q == grid[0] else q  # it is approached as q -> 0, or, by ReLU, had at every q
        return Critical(float(weight(q)), float(target), q)
    root = _smallest_root(lambda q: bias(q) - target, kept)
    if root is None:
        off = np.where(biases < 0, inf, abs(biases - target))
        near, sigma_b = float(weight(kept[off.argmin()])), sqrt(biases[off.argmin()])
        raise ValueError(
            f"sigma_b is {sqrt(target):g}; {phi.name} has no critical point there, the nearest is "
            f"sigma_b={sigma_b:.4g} with sigma_w={sqrt(near):.4g}"
        )
    return Critical(float(weight(root)), float(target), root)


def preact_mean_spread(x_mean: ArrayLike, variance: float, width: int) -> float:
    """Standard deviation over draws of the first layer's mean pre-activation: |x_mean| sqrt(v / width).

    x_mean: the mean image (inputs,). The mean over images of w.x is w.x_mean, with variance v |x_mean|^2, and the layer
    averages `width` of these. Exact at any width.
    """
    return float(np.linalg.norm(np.asarray(x_mean, dtype=float))) * sqrt(variance / width)
