"""Weight initialisation. A scheme draws one layer of one replica at a time.

Replica r of seed s draws from its own generator, which is a function of (s, r) alone. Its weights are therefore the
same to the bit for any number of replicas, and no draw uses global random state. The generators are NumPy's: torch's
normal draws follow different code paths for small tensors and other vector units, and return other bits.

torch is imported where weights become tensors: `initlab theory` needs the formulas alone, and at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import exp, pi, sqrt
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import numpy as np
from numpy.random import Generator

from initlab.checks import check_choice, check_int, check_number, check_positive
from initlab.nn import theory
from initlab.random_streams import stream

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Array = np.ndarray
Gain = float | Literal["auto"]  # auto: 1 / E[phi(z)^2], z ~ N(0, 1), of the activation phi
TRUNCATION = 2.0  # of truncated normal weights, in standard deviations of the normal that is truncated


class Scheme(ABC):
    """Base class of init schemes. Subclasses define `weight` and `variance`, and override the other methods as needed.

    unit_variance: whether `calibrate` scales the pre-activations of each layer to variance 1.
    zero_mean: whether weights have mean zero, as theory assumes.
    """

    unit_variance: ClassVar[bool] = False
    zero_mean: ClassVar[bool] = True

    def for_activation(self, activation: object) -> Scheme:
        """Returns this scheme with what depends on the activation computed, such as a gain of `auto`.

        activation: of `nn.activations`, or its configuration.  Raises ValueError if theory has no value for it.
        """
        if getattr(self, "gain", None) == "auto":
            return replace(self, gain=theory.unit_gain(theory.Phi.of(activation)))  # type: ignore[type-var]
        return self

    @abstractmethod
    def weight(self, fan_out: int, fan_in: int, *, generator: Generator) -> Array:
        """Draws W (fan_out, fan_in), float32, of one layer of one replica."""

    @abstractmethod
    def variance(self, fan_out: int, fan_in: int) -> float:
        """Returns Var W, the variance of one weight as drawn."""

    def bias(self, fan_out: int, fan_in: int, *, generator: Generator) -> Array:
        """Draws b (fan_out,), float32, of one layer of one replica. The default is zero."""
        return np.zeros(fan_out, np.float32)

    def bias_variance(self, fan_out: int, fan_in: int) -> float:
        """Returns Var b, the variance of one bias as drawn."""
        return 0.0

    def calibrate(self, weights: Sequence[Tensor], x: Tensor, phi: Callable[[Tensor], Tensor]) -> None:  # noqa: B027 (no data, no work)
        """Rescales the drawn weights (R, D, E) in place, given training images x (E, N). The default does nothing."""


def _check_gain(gain: object) -> None:
    """Raises ValueError unless it is a positive number or `auto`."""
    if isinstance(gain, str) and gain != "auto":
        raise ValueError(f"gain is {gain!r}; expected a positive number or auto")
    if gain != "auto":
        check_positive("gain", gain)  # type: ignore[arg-type]


def _number(name: str, value: float | Literal["auto"]) -> float:
    """Returns a value that is a number. Raises ValueError for `auto`, which `for_activation` computes."""
    if isinstance(value, str):
        raise ValueError(f"{name} is {value!r}; expected a number, which for_activation makes of it")
    return value


@dataclass(frozen=True)
class VarianceScaling(Scheme):
    """Weights of mean 0 and variance gain / ((1 + leak^2) n), where n is fan_in, fan_out, their mean, or 1.

    This is the common form of LeCun's (1 / fan_in), Xavier's (1 / fan_avg, uniform) and Kaiming's (2 / fan_in) schemes.
    leak: of a leaky ReLU, whose lower half adds to the signal; `auto` is that of the activation, or 0 if it has none. A
    gain of `auto` has it in it.
    distribution: truncated_normal is a normal cut at two of its standard deviations, widened so that the variance after
    the cut is gain / n, as in JAX and Keras; torch's `trunc_normal_` does not correct it.
    Raises ValueError for a value out of range, or an unknown mode or distribution.
    Source: LeCun et al. (1998), "Efficient BackProp", eq. 16; Glorot & Bengio (2010), eq. 16; He et al. (2015), eq. 10.
    """

    gain: Gain
    mode: Literal["one", "fan_in", "fan_out", "fan_avg"] = "fan_in"
    distribution: Literal["normal", "uniform", "truncated_normal"] = "normal"
    leak: float | Literal["auto"] = 0.0

    def __post_init__(self) -> None:
        _check_gain(self.gain)
        if self.leak != "auto":
            check_number("leak", self.leak)
        check_choice("mode", self.mode, ("one", "fan_in", "fan_out", "fan_avg"))
        check_choice("distribution", self.distribution, ("normal", "uniform", "truncated_normal"))

    def for_activation(self, activation: object) -> Self:
        if self.gain == "auto":
            return replace(self, gain=theory.unit_gain(theory.Phi.of(activation)), leak=0.0)
        if self.leak == "auto":
            constants = activation if isinstance(activation, Mapping) else getattr(activation, "constants", {})
            return replace(self, leak=constants.get("leak", 0.0))
        return self

    def variance(self, fan_out: int, fan_in: int) -> float:
        n = {"one": 1, "fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[self.mode]
        return _number("gain", self.gain) / (1 + _number("leak", self.leak) ** 2) / n

    def weight(self, fan_out: int, fan_in: int, *, generator: Generator) -> Array:
        variance = self.variance(fan_out, fan_in)
        if self.distribution == "uniform":
            return _uniform((fan_out, fan_in), sqrt(3 * variance), generator)  # Var U(-c, c) = c^2 / 3
        if self.distribution == "truncated_normal":
            return _truncated_normal((fan_out, fan_in), sqrt(variance), generator)
        return generator.standard_normal((fan_out, fan_in), np.float32) * np.float32(sqrt(variance))


def kaiming(
    leak: float | Literal["auto"] = 0.0, mode: Literal["fan_in", "fan_out"] = "fan_in", gain: Gain = 2.0
) -> VarianceScaling:
    """Kaiming's scheme, N(0, gain / ((1 + leak^2) n)). Gain 2 makes up for the scale that a (leaky) ReLU takes away.

    Mode `fan_in` preserves the variance of the forward signal, `fan_out` that of the backward signal.
    Raises ValueError for a value out of range.
    Source: He et al. (2015), "Delving Deep into Rectifiers", eq. 10, 14 and 15.
    """
    check_choice("mode", mode, ("fan_in", "fan_out"))
    return VarianceScaling(gain, mode, leak=leak)


@dataclass(frozen=True)
class Gaussian(Scheme):
    """W ~ N(0, sigma_w^2 / fan_in), b ~ N(0, sigma_b^2): the parametrisation of mean-field theory.

    Biases have a stream of their own, so weights are the same numbers for any sigma_b.
    Raises ValueError for a sigma_w that is not positive, or a negative sigma_b.
    Source: Poole et al. (2016), "Exponential expressivity in deep neural networks through transient chaos", section 2.
    """

    sigma_w: float
    sigma_b: float = 0.0

    def __post_init__(self) -> None:
        check_positive("sigma_w", self.sigma_w)
        _check_sigma_b(self.sigma_b)

    def variance(self, fan_out: int, fan_in: int) -> float:
        return self.sigma_w**2 / fan_in

    def weight(self, fan_out: int, fan_in: int, *, generator: Generator) -> Array:
        return generator.standard_normal((fan_out, fan_in), np.float32) * np.float32(self.sigma_w / sqrt(fan_in))

    def bias(self, fan_out: int, fan_in: int, *, generator: Generator) -> Array:
        return generator.spawn(1)[0].standard_normal(fan_out, np.float32) * np.float32(self.sigma_b)

    def bias_variance(self, fan_out: int, fan_in: int) -> float:
        return self.sigma_b**2


def _check_sigma_b(sigma_b: object) -> None:
    """Raises ValueError unless it is a number of at least 0."""
    check_number("sigma_b", sigma_b)
    if sigma_b < 0:  # type: ignore[operator]
        raise ValueError(f"sigma_b is {sigma_b!r}; expected a number of at least 0")


@dataclass(frozen=True)
class Critical(Scheme):
    """`Gaussian` on the edge of chaos of the activation: a small perturbation neither grows nor shrinks with depth.

    sigma_b: sigma_w follows from it; `auto` is the smallest at which there is such a point. `for_activation` makes the
    `Gaussian`, and raises ValueError if there is none.
    Source: `theory.critical`; Poole et al. (2016), section 3; Schoenholz et al. (2017), section 2.
    """

    sigma_b: float | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        if isinstance(self.sigma_b, str):
            if self.sigma_b != "auto":
                raise ValueError(f"sigma_b is {self.sigma_b!r}; expected a number of at least 0, or auto")
        else:
            _check_sigma_b(self.sigma_b)

    def for_activation(self, activation: object) -> Gaussian:
        bias_variance = None if isinstance(self.sigma_b, str) else self.sigma_b**2
        point = theory.critical(theory.Phi.of(activation), bias_variance)
        return Gaussian(sqrt(point.weight), sqrt(point.bias))

    def variance(self, fan_out: int, fan_in: int) -> float:
        raise ValueError("a critical scheme has no variance before for_activation")

    def weight(self, fan_out: int, fan_in: int, *, generator: Generator) -> Array:
        raise ValueError("a critical scheme has no weights before for_activation")


@dataclass(frozen=True)
class Constant(Scheme):
    """Every weight is `value`; biases are zero. All units of a layer stay equal in training: nothing tells them apart.

    Raises ValueError for a value that is not a finite number.
    """

    value: float = 0.0

    def __post_init__(self) -> None:
        check_number("value", self.value)

    @property
    def zero_mean(self) -> bool:  # type: ignore[override]
        """Only if the value is zero."""
        return self.value == 0

    def variance(self, fan_out: int, fan_in: int) -> float:
        return 0.0

    def weight(self, fan_out: int, fan_in: int, *, generator: Generator) -> Array:
        return np.full((fan_out, fan_in), self.value, np.float32)


@dataclass(frozen=True)
class Sparse(Scheme):
    """Each unit has `connections` weights, N(0, gain / connections), to random units of the layer below.

    Its other weights are zero, so that fan_in Var W = gain. Martens has 15 connections of N(0, 1): a gain of 15. A unit
    with fewer inputs is connected to all. torch's `sparse_` makes columns sparse, so on a weight (fan_out, fan_in) it
    counts the outgoing connections.
    Raises ValueError for a value out of range.
    Source: Martens (2010), "Deep learning via Hessian-free optimization", section 5.
    """

    gain: Gain = 2.0
    connections: int = 15

    def __post_init__(self) -> None:
        _check_gain(self.gain)
        check_int("connections", self.connections, least=1)

    def variance(self, fan_out: int, fan_in: int) -> float:
        return _number("gain", self.gain) / fan_in

    def weight(self, fan_out: int, fan_in: int, *, generator: Generator) -> Array:
        k = min(self.connections, fan_in)
        W = np.zeros((fan_out, fan_in), np.float32)
        chosen = generator.random((fan_out, fan_in)).argpartition(k - 1, axis=1)[:, :k]
        values = generator.standard_normal((fan_out, k), np.float32) * np.float32(sqrt(_number("gain", self.gain) / k))
        np.put_along_axis(W, chosen, values, axis=1)
        return W


@dataclass(frozen=True)
class TorchLinear(Scheme):
    """The default of torch.nn.Linear: weights and biases U(-c, c), c = 1 / sqrt(fan_in), so Var W = 1 / (3 fan_in).

    torch calls kaiming_uniform_(a=sqrt(5)), whose bound sqrt(6 / ((1 + 5) fan_in)) equals c.
    gain: with another than torch's 1/3, Var W = gain / fan_in. It leaves the biases as they are.
    Raises ValueError for a gain that is not positive.
    """

    gain: Gain = 1 / 3

    def __post_init__(self) -> None:
        _check_gain(self.gain)

    def variance(self, fan_out: int, fan_in: int) -> float:
        return 3 * _number("gain", self.gain) / (3 * fan_in)

    def weight(self, fan_out: int, fan_in: int, *, generator: Generator) -> Array:
        return _uniform((fan_out, fan_in), sqrt(3 * _number("gain", self.gain)) / sqrt(fan_in), generator)

    def bias(self, fan_out: int, fan_in: int, *, generator: Generator) -> Array:
        return _uniform((fan_out,), 1 / sqrt(fan_in), generator)

    def bias_variance(self, fan_out: int, fan_in: int) -> float:
        return 1 / (3 * fan_in)


@dataclass(frozen=True)
class Orthogonal(Scheme):
    """gain * Q, with Q uniform among matrices with orthonormal rows (or columns, whichever are fewer).

    gain: of the weights, as in torch, not of their variance; so `auto` is the square root of that of other schemes.
    Raises ValueError for a gain that is not positive.
    Source: Saxe, McClelland & Ganguli (2014), "Exact solutions to the nonlinear dynamics of learning in deep linear
    neural networks", section 3;
    signs as in Mezzadri (2007), "How to generate random matrices from the classical compact groups", section 5.
    """

    gain: Gain = 1.0

    def __post_init__(self) -> None:
        _check_gain(self.gain)

    def for_activation(self, activation: object) -> Self:
        if self.gain == "auto":
            return replace(self, gain=sqrt(theory.unit_gain(theory.Phi.of(activation))))
        return self

    def variance(self, fan_out: int, fan_in: int) -> float:
        return _number("gain", self.gain) ** 2 / max(fan_out, fan_in)

    def weight(self, fan_out: int, fan_in: int, *, generator: Generator) -> Array:
        tall = generator.standard_normal((max(fan_out, fan_in), min(fan_out, fan_in)))
        q, r = np.linalg.qr(tall)
        q *= np.sign(np.diagonal(r))  # without it Q is not uniform: QR fixes the signs of R's diagonal
        return (_number("gain", self.gain) * (q if fan_out >= fan_in else q.T)).astype(np.float32)


@dataclass(frozen=True)
class LSUV(Orthogonal):
    """Layer-sequential unit variance: orthogonal weights, each layer divided by the std of its pre-activations.

    The paper iterates. Here one division is exact, since z = W a is linear in W and the biases are zero.
    images: number of training images to use, the first ones.
    Raises ValueError for a value out of range; `calibrate` raises it if a layer has constant pre-activations.
    Source: Mishkin & Matas (2016), "All you need is a good init", algorithm 1.
    """

    images: int = 1000
    unit_variance: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int("images", self.images, least=2)

    def calibrate(self, weights: Sequence[Tensor], x: Tensor, phi: Callable[[Tensor], Tensor]) -> None:
        a = x[:, : self.images].to(weights[0])
        for number, W in enumerate(weights, start=1):
            std = (W @ a).std((-2, -1), keepdim=True)  # (R, 1, 1)
            if not (std > 0).all():
                raise ValueError(f"LSUV: layer {number} is silent: no unit before it is active on {self.images} images")
            W /= std
            a = phi(W @ a)


def draw(
    scheme: Scheme, widths: Sequence[int], *, replicas: int, seed: int, dtype: torch.dtype | None = None
) -> tuple[list[Tensor], list[Tensor]]:
    """Draws the weights (R, D, E) and biases (R, D, 1) of every layer. widths: [inputs, hidden..., outputs].

    dtype: float32 if not given.
    Raises ValueError for replicas or a width below 1, or a seed below 0.
    """
    import torch

    check_sizes(widths, replicas=replicas, seed=seed)
    dtype = torch.float32 if dtype is None else dtype
    layers = [(fan_out, fan_in) for fan_in, fan_out in pairwise(widths)]
    weights = [torch.empty(replicas, fan_out, fan_in, dtype=dtype) for fan_out, fan_in in layers]
    biases = [torch.empty(replicas, fan_out, 1, dtype=dtype) for fan_out, _ in layers]
    for replica in range(replicas):
        generator = stream(seed, "replica", replica)
        for layer, fans in enumerate(layers):
            weights[layer][replica] = torch.from_numpy(scheme.weight(*fans, generator=generator))
            biases[layer][replica, :, 0] = torch.from_numpy(scheme.bias(*fans, generator=generator))
    return weights, biases


def drawn_layers(scheme: Scheme, widths: Sequence[int]) -> list[theory.DrawnLayer]:
    """Returns every layer as theory sees it. widths: [inputs, hidden..., outputs]."""
    return [
        theory.DrawnLayer(
            fan_in,
            fan_out,
            None if scheme.unit_variance else scheme.variance(fan_out, fan_in),
            scheme.bias_variance(fan_out, fan_in),
        )
        for fan_in, fan_out in pairwise(widths)
    ]


def check_sizes(widths: Sequence[int], *, replicas: int, seed: int) -> None:
    """Raises ValueError unless replicas and widths are integers of at least 1, and the seed is one of at least 0."""
    check_int("replicas", replicas, least=1)
    for width in widths:
        check_int("width", width, least=1)
    check_int("seed", seed, least=0)


def _uniform(shape: tuple[int, ...], bound: float, generator: Generator) -> Array:
    """Draws from U(-bound, bound), float32."""
    return (2 * generator.random(shape, np.float32) - 1) * np.float32(bound)


def _truncated_normal(shape: tuple[int, ...], std: float, generator: Generator) -> Array:
    """Draws a normal, cut at TRUNCATION of its standard deviations, whose standard deviation after the cut is `std`.

    By the inverse of its distribution function. Cut at t, N(0, 1) has variance 1 - 2 t p(t) / (P(t) - P(-t)), p its
    density and P its distribution function: 0.774 at t = 2.
    """
    from scipy.special import ndtr, ndtri

    low, high = ndtr(-TRUNCATION), ndtr(TRUNCATION)
    cut = sqrt(1 - 2 * TRUNCATION * exp(-(TRUNCATION**2) / 2) / sqrt(2 * pi) / (high - low))
    return (ndtri(low + (high - low) * generator.random(shape)) * (std / cut)).astype(np.float32)
