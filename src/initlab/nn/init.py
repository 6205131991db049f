"""Weight initialisation. A scheme draws one layer of one replica at a time.

Replica r of seed s draws from its own generator, which is a function of (s, r) alone. Its weights are therefore the
same to the bit for any number of replicas, and no draw uses global random state. The generators are NumPy's: torch's
normal draws follow different code paths for small tensors and other vector units, and return other bits.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from initlab.checks import check_choice, check_int, check_number, check_positive
from initlab.random_streams import stream

Array = np.ndarray


class Scheme(ABC):
    """Base class of init schemes. Subclasses define `weight` and `variance`, and override the other methods as needed.

    unit_variance: whether `calibrate` scales the pre-activations of each layer to variance 1.
    """

    unit_variance: ClassVar[bool] = False

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


@dataclass(frozen=True)
class VarianceScaling(Scheme):
    """Normal or uniform weights of mean 0 and variance scale / n, where n is fan_in, fan_out, their mean, or 1.

    This is the common form of LeCun's (1 / fan_in), Xavier's (1 / fan_avg, uniform) and Kaiming's (2 / fan_in) schemes.
    Raises ValueError for a scale that is not positive, or an unknown mode or distribution.
    Source: LeCun et al. (1998), "Efficient BackProp", eq. 16; Glorot & Bengio (2010), eq. 16; He et al. (2015), eq. 10.
    """

    scale: float
    mode: Literal["one", "fan_in", "fan_out", "fan_avg"] = "fan_in"
    distribution: Literal["normal", "uniform"] = "normal"

    def __post_init__(self) -> None:
        check_positive("scale", self.scale)
        check_choice("mode", self.mode, ("one", "fan_in", "fan_out", "fan_avg"))
        check_choice("distribution", self.distribution, ("normal", "uniform"))

    def variance(self, fan_out: int, fan_in: int) -> float:
        n = {"one": 1, "fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[self.mode]
        return self.scale / n

    def weight(self, fan_out: int, fan_in: int, *, generator: Generator) -> Array:
        variance = self.variance(fan_out, fan_in)
        if self.distribution == "uniform":
            return _uniform((fan_out, fan_in), sqrt(3 * variance), generator)  # Var U(-c, c) = c^2 / 3
        return generator.standard_normal((fan_out, fan_in), np.float32) * np.float32(sqrt(variance))


def kaiming(leak: float = 0.0, mode: Literal["fan_in", "fan_out"] = "fan_in", gain: float = 2.0) -> VarianceScaling:
    """Kaiming's scheme, N(0, gain / ((1 + leak^2) n)). Gain 2 makes up for the scale that a (leaky) ReLU takes away.

    Mode `fan_in` preserves the variance of the forward signal, `fan_out` that of the backward signal.
    Raises ValueError for a value out of range.
    Source: He et al. (2015), "Delving Deep into Rectifiers", eq. 10, 14 and 15.
    """
    check_number("leak", leak)
    check_choice("mode", mode, ("fan_in", "fan_out"))
    check_positive("gain", gain)
    return VarianceScaling(gain / (1 + leak**2), mode)


@dataclass(frozen=True)
class TorchLinear(Scheme):
    """The default of torch.nn.Linear: weights and biases U(-c, c), c = 1 / sqrt(fan_in), so Var W = 1 / (3 fan_in).

    torch calls kaiming_uniform_(a=sqrt(5)), whose bound sqrt(6 / ((1 + 5) fan_in)) equals c.
    """

    def variance(self, fan_out: int, fan_in: int) -> float:
        return 1 / (3 * fan_in)

    def weight(self, fan_out: int, fan_in: int, *, generator: Generator) -> Array:
        return _uniform((fan_out, fan_in), 1 / sqrt(fan_in), generator)

    def bias(self, fan_out: int, fan_in: int, *, generator: Generator) -> Array:
        return _uniform((fan_out,), 1 / sqrt(fan_in), generator)

    def bias_variance(self, fan_out: int, fan_in: int) -> float:
        return 1 / (3 * fan_in)


@dataclass(frozen=True)
class Orthogonal(Scheme):
    """gain * Q, with Q uniform among matrices with orthonormal rows (or columns, whichever are fewer).

    Raises ValueError for a gain that is not positive.
    Source: Saxe, McClelland & Ganguli (2014), "Exact solutions to the nonlinear dynamics of learning in deep linear
    neural networks", section 3;
    signs as in Mezzadri (2007), "How to generate random matrices from the classical compact groups", section 5.
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        check_positive("gain", self.gain)

    def variance(self, fan_out: int, fan_in: int) -> float:
        return self.gain**2 / max(fan_out, fan_in)

    def weight(self, fan_out: int, fan_in: int, *, generator: Generator) -> Array:
        tall = generator.standard_normal((max(fan_out, fan_in), min(fan_out, fan_in)))
        q, r = np.linalg.qr(tall)
        q *= np.sign(np.diagonal(r))  # without it Q is not uniform: QR fixes the signs of R's diagonal
        return (self.gain * (q if fan_out >= fan_in else q.T)).astype(np.float32)


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
    scheme: Scheme, widths: Sequence[int], *, replicas: int, seed: int, dtype: torch.dtype = torch.float32
) -> tuple[list[Tensor], list[Tensor]]:
    """Draws the weights (R, D, E) and biases (R, D, 1) of every layer. widths: [inputs, hidden..., outputs].

    Raises ValueError for replicas or a width below 1, or a seed below 0.
    """
    check_sizes(widths, replicas=replicas, seed=seed)
    layers = [(fan_out, fan_in) for fan_in, fan_out in pairwise(widths)]
    weights = [torch.empty(replicas, fan_out, fan_in, dtype=dtype) for fan_out, fan_in in layers]
    biases = [torch.empty(replicas, fan_out, 1, dtype=dtype) for fan_out, _ in layers]
    for replica in range(replicas):
        generator = stream(seed, "replica", replica)
        for layer, fans in enumerate(layers):
            weights[layer][replica] = torch.from_numpy(scheme.weight(*fans, generator=generator))
            biases[layer][replica, :, 0] = torch.from_numpy(scheme.bias(*fans, generator=generator))
    return weights, biases


def check_sizes(widths: Sequence[int], *, replicas: int, seed: int) -> None:
    """Raises ValueError unless replicas and widths are integers of at least 1, and the seed is one of at least 0."""
    check_int("replicas", replicas, least=1)
    for width in widths:
        check_int("width", width, least=1)
    check_int("seed", seed, least=0)


def _uniform(shape: tuple[int, ...], bound: float, generator: Generator) -> Array:
    """Draws from U(-bound, bound), float32."""
    return (2 * generator.random(shape, np.float32) - 1) * np.float32(bound)
