"""Gaussian expectations of activations: what becomes of a normal pre-activation, without torch.

    z ~ N(0, q);  phi(z) = scale * (f(z) - shift), as in `nn.activations`
    u ~ N(0, 1), so that z = sqrt(q) u
    he_k   normalised Hermite polynomials: E[he_j(u) he_k(u)] = 1 where j = k, else 0

The ReLU family has closed forms. Other expectations are sums over nodes. Gauss-Hermite nodes lie evenly around 0, where
an activation has its kink, or is steep if q is large. So each half-line is cut into panels that halve towards 0, with
Gauss-Legendre nodes in each: a test shows that twice as many nodes change nothing, and where Gauss-Hermite's differ.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from math import pi, sqrt

import numpy as np
from numpy.polynomial.legendre import leggauss
from numpy.typing import ArrayLike

from initlab.checks import check_number, check_positive

Array = np.ndarray
SATURATED = 0.05  # as in nn.activations
PANELS, ORDER, LIMIT = 13, 32, 12.0  # of a half-line [0, LIMIT]; beyond it N(0, 1) has 1e-32
TERMS = 128  # of a series in Hermite polynomials
IMAGES = 512  # whose expectations are computed at a time, to bound memory


def _sigmoid(z: Array) -> Array:
    return 0.5 * (1 + np.tanh(z / 2))


def _erf(z: Array) -> Array:
    if z.size > 200_000:
        from scipy.special import erf  # importing it takes longer than a small array

        return erf(z)
    return np.asarray(np.frompyfunc(math.erf, 1, 1)(z), dtype=float)


def _normal_cdf(z: Array) -> Array:
    if z.size > 200_000:
        from scipy.special import ndtr

        return ndtr(z)
    return np.asarray(np.frompyfunc(math.erfc, 1, 1)(-z / sqrt(2)), dtype=float) / 2


def _normal_pdf(z: Array) -> Array:
    return np.exp(-(z**2) / 2) / sqrt(2 * pi)


def _elu(z: Array, alpha: float) -> Array:
    return np.where(z > 0, z, alpha * np.expm1(np.minimum(z, 0)))


def _elu_slope(z: Array, alpha: float) -> Array:
    return np.where(z > 0, 1, alpha * np.exp(np.minimum(z, 0)))


SELU_LAMBDA, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772

# {class in nn.activations: (f, f', largest |f'|)}. A test holds each to that class.
FUNCTIONS: dict[str, tuple[Callable[..., Array], Callable[..., Array], Callable[..., float]]] = {
    "ReLU": (
        lambda z, leak=0.0: np.maximum(z, 0) + leak * np.minimum(z, 0),
        lambda z, leak=0.0: np.where(z > 0, 1.0, leak),
        lambda leak=0.0: max(1.0, abs(leak)),
    ),
    "Identity": (lambda z: z, np.ones_like, lambda: 1.0),
    "Tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2, lambda: 1.0),
    "Sigmoid": (_sigmoid, lambda z: _sigmoid(z) * _sigmoid(-z), lambda: 0.25),
    "Softsign": (lambda z: z / (1 + abs(z)), lambda z: (1 + abs(z)) ** -2.0, lambda: 1.0),
    "Softplus": (lambda z: np.logaddexp(0, z), _sigmoid, lambda: 1.0),
    "ELU": (
        lambda z, alpha=1.0: _elu(z, alpha),
        lambda z, alpha=1.0: _elu_slope(z, alpha),
        lambda alpha=1.0: max(1.0, abs(alpha)),
    ),
    "SELU": (
        lambda z: SELU_LAMBDA * _elu(z, SELU_ALPHA),
        lambda z: SELU_LAMBDA * _elu_slope(z, SELU_ALPHA),
        lambda: SELU_LAMBDA * SELU_ALPHA,
    ),
    "GELU": (
        lambda z: z * _normal_cdf(z),
        lambda z: _normal_cdf(z) + z * _normal_pdf(z),
        lambda: 1.128904145185155,
    ),
    "SiLU": (
        lambda z: z * _sigmoid(z),
        lambda z: _sigmoid(z) * (1 + z * _sigmoid(-z)),
        lambda: 1.099839320128867,
    ),
    "Erf": (_erf, lambda z: 2 / sqrt(pi) * np.exp(-(z**2)), lambda: 2 / sqrt(pi)),
}


@dataclass(frozen=True)
class Phi:
    """An activation over NumPy arrays: phi(z) = scale * (f(z) - shift).

    name: of the class in `nn.activations`.  constants: those of f, `leak` or `alpha`.
    Raises ValueError for an unknown name, or a constant that is unknown, not a number or out of range.
    """

    name: str
    shift: float = 0.0
    scale: float = 1.0
    constants: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in FUNCTIONS:
            raise ValueError(f"theory knows no activation {self.name!r}; expected one of {', '.join(FUNCTIONS)}")
        for name, value in {"shift": self.shift, **self.constants}.items():
            check_number(name, value)
        check_positive("scale", self.scale)
        try:
            FUNCTIONS[self.name][2](**self.constants)
        except TypeError:
            raise ValueError(f"{', '.join(self.constants)}: {self.name} has no such constant") from None

    @classmethod
    def of(cls, activation: object) -> "Phi":
        """Returns the activation of this object of `nn.activations`, or of this configuration, {"_target_": ...}.

        Raises ValueError if theory has no such function, or a constant is not a number.
        """
        if isinstance(activation, Phi):
            return activation
        if isinstance(activation, Mapping):
            constants = {name: value for name, value in activation.items() if name != "_target_"}
            name = str(activation.get("_target_")).rpartition(".")[2]
        else:
            constants, name = dict(getattr(activation, "constants", {})), type(activation).__name__
        shift, scale = constants.pop("shift", 0.0), constants.pop("scale", 1.0)
        return cls(name, shift, scale, constants)

    def __str__(self) -> str:
        constants = {**self.constants, "shift": self.shift, "scale": self.scale}
        return f"{self.name}({', '.join(f'{name}={value}' for name, value in constants.items())})"

    def f(self, z: Array) -> Array:
        """f(z), elementwise."""
        return FUNCTIONS[self.name][0](z, **self.constants)

    def slope(self, z: Array) -> Array:
        """f'(z), elementwise."""
        return FUNCTIONS[self.name][1](z, **self.constants)

    @property
    def leak(self) -> float | None:
        """The slope below 0 of the ReLU family, of which the identity is one; None for any other activation."""
        return {"ReLU": self.constants.get("leak", 0.0), "Identity": 1.0}.get(self.name)

    @cached_property
    def saturated_intervals(self) -> Array:
        """The intervals of z that are saturated, (n, 2): where |phi'(z)| is below SATURATED times the largest slope.

        Each end is bracketed on a grid, then bisected.
        """
        threshold = SATURATED * FUNCTIONS[self.name][2](**self.constants)

        def below(z: Array) -> Array:
            return abs(self.slope(z)) < threshold

        grid = np.linspace(-50, 50, 4001)
        inside = below(grid)
        (at,) = np.nonzero(inside[1:] != inside[:-1])
        low, high = grid[at], grid[at + 1]
        for _ in range(60):
            middle = (low + high) / 2
            same = below(middle) == inside[at]
            low, high = np.where(same, middle, low), np.where(same, high, middle)
        return np.array([-np.inf] * int(inside[0]) + [*high] + [np.inf] * int(inside[-1])).reshape(-1, 2)


@cache
def nodes(order: int = ORDER) -> tuple[Array, Array]:
    """Returns u and w, with E[g(u)] = sum w g(u) for u ~ N(0, 1). order: nodes per panel."""
    edges = np.array([0, *LIMIT * 0.5 ** np.arange(PANELS)[::-1]])
    x, weights = leggauss(order)
    u = (edges[:-1, None] + np.diff(edges)[:, None] * (x + 1) / 2).ravel()
    w = (np.diff(edges)[:, None] * weights / 2).ravel() * _normal_pdf(u)
    return np.concatenate([-u[::-1], u]), np.concatenate([w[::-1], w])


@cache
def _hermite_weights() -> Array:
    """w he_k(u) at the nodes: (nodes, TERMS), by the recurrence he_{k+1} = (u he_k - sqrt(k) he_{k-1}) / sqrt(k+1)."""
    u, w = nodes()
    he = [np.ones_like(u), u]
    for k in range(1, TERMS - 1):
        he.append((u * he[k] - sqrt(k) * he[k - 1]) / sqrt(k + 1))
    return w[:, None] * np.stack(he, 1)


def _expect(function: Callable[[Array], Array], q: ArrayLike, weights: Array | None = None) -> Array:
    """E[function(z)], z ~ N(0, q): (...) -> (...), or (..., K) with weights (nodes, K)."""
    q = np.asarray(q, dtype=float)
    u, w = nodes()
    w = w if weights is None else weights
    parts = [function(np.sqrt(part)[:, None] * u) @ w for part in _chunks(q.ravel())]
    return np.concatenate(parts).reshape(q.shape + w.shape[1:])


def _chunks(q: Array) -> list[Array]:
    return np.split(q, range(IMAGES, q.size, IMAGES))


def relu_mean(q: ArrayLike) -> Array:
    """E[max(z, 0)] = int_0^inf z N(z; 0, q) dz = sqrt(q / (2 pi))."""
    return np.sqrt(np.asarray(q, dtype=float) / (2 * pi))


def f_mean(q: ArrayLike, phi: Phi) -> Array:
    """E[f(z)]; of the ReLU family (1 - leak) sqrt(q / (2 pi)), since E[min(z, 0)] = -E[max(z, 0)]."""
    if phi.leak is not None:
        return (1 - phi.leak) * relu_mean(q)
    return _expect(phi.f, q)


def f_second(q: ArrayLike, phi: Phi) -> Array:
    """E[f(z)^2]; of the ReLU family (1 + leak^2) q/2: each side of zero holds half of E[z^2].

    Source: He et al. (2015), section 2.2.
    """
    if phi.leak is not None:
        return (1 + phi.leak**2) * np.asarray(q, dtype=float) / 2
    return _expect(lambda z: phi.f(z) ** 2, q)


def slope_second(q: ArrayLike, phi: Phi) -> Array:
    """E[f'(z)^2]; of the ReLU family (1 + leak^2) / 2."""
    if phi.leak is not None:
        return np.full(np.shape(q), (1 + phi.leak**2) / 2)
    return _expect(lambda z: phi.slope(z) ** 2, q)


def second_rate(q: ArrayLike, phi: Phi) -> Array:
    """d/dq E[(f(z) - shift)^2] = E[(f(z) - shift) f'(z) z] / q, since dz/dq = z / (2q)."""
    if phi.leak is not None:
        q = np.asarray(q, dtype=float)
        return (1 + phi.leak**2) / 2 - phi.shift * (1 - phi.leak) / np.sqrt(2 * pi * q)
    return _expect(lambda z: (phi.f(z) - phi.shift) * phi.slope(z) * z, q) / q


def f_product(q1: ArrayLike, q2: ArrayLike, c: ArrayLike, phi: Phi) -> Array:
    """E[f(z1) f(z2)] of normal z1, z2 of variances q1, q2 and correlation c, which broadcast.

    With h_k(q) = E[f(sqrt(q) u) he_k(u)], it is sum_k h_k(q1) h_k(q2) c^k (Mehler). What TERMS terms leave of E[f^2]
    is taken to be in the next one. Of the ReLU family, with g = (1 + leak)/2 and h = (1 - leak)/2, so that
    f(z) = g z + h |z|, it is sqrt(q1 q2) (g^2 c + h^2 (2/pi) (sqrt(1 - c^2) + c arcsin c)).
    Source: Cho & Saul (2009), "Kernel methods for deep learning", eq. 6; Daniely, Frostig & Singer (2016), "Toward
    deeper understanding of neural networks", section 8, for the series.
    """
    q1, q2 = np.asarray(q1, dtype=float), np.asarray(q2, dtype=float)
    x = np.clip(np.asarray(c, dtype=float), -1, 1)
    if phi.leak is not None:
        g, h = (1 + phi.leak) / 2, (1 - phi.leak) / 2
        return np.sqrt(q1 * q2) * (g**2 * x + h**2 * 2 / pi * (np.sqrt(1 - x**2) + x * np.arcsin(x)))
    h1, h2 = (_expect(phi.f, q, _hermite_weights()) for q in (q1, q2))
    rest1, rest2 = (np.maximum(f_second(q, phi) - (h**2).sum(-1), 0) for q, h in ((q1, h1), (q2, h2)))
    total = np.sqrt(rest1 * rest2) * np.ones(x.shape)
    for k in reversed(range(TERMS)):  # Horner
        total = total * x + h1[..., k] * h2[..., k]
    return total


def slope_product(q: float, c: ArrayLike, phi: Phi) -> Array:
    """E[f'(z1) f'(z2)] of normal z1, z2 of variance q and correlation c: d/dc E[f(z1) f(z2)] / q.

    Of the ReLU family it is g^2 + h^2 (2/pi) arcsin c, with g and h as in `f_product`.
    """
    x = np.clip(np.asarray(c, dtype=float), -1, 1)
    if phi.leak is not None:
        return ((1 + phi.leak) / 2) ** 2 + ((1 - phi.leak) / 2) ** 2 * 2 / pi * np.arcsin(x)
    h = _expect(phi.slope, q, _hermite_weights())
    total = np.maximum(slope_second(q, phi) - (h**2).sum(), 0) * np.ones(x.shape)
    for k in reversed(range(TERMS)):
        total = total * x + h[k] ** 2
    return total


def saturated_fraction(q: ArrayLike, phi: Phi) -> Array:
    """P(|phi'(z)| < SATURATED times the largest slope), z ~ N(0, q)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ends = phi.saturated_intervals / np.sqrt(np.asarray(q, dtype=float))[..., None, None]  # (..., n, 2)
    return np.diff(_normal_cdf(ends))[..., 0].sum(-1)
