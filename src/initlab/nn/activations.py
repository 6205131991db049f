"""Activation functions, each next to its derivative.

Shapes: R replicas, D width of the layer, B batch. f and f' are those of the plain function; any activation may be
shifted and scaled, phi(z) = scale * (f(z) - shift). Kernels called `*_backward` take one pass where a formula would
take several.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from math import pi, sqrt
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional

aten = torch.ops.aten
LARGEST = 1e18  # of a constant: its square is within float32's range
SATURATED = 0.05  # a unit is saturated where |phi'(z)| is below this share of the largest slope that phi has


@dataclass(frozen=True, kw_only=True)
class Activation(ABC):
    """Base class of activations. Subclasses define `f`, `f_backward` and `largest_slope`, and may add constants.

    shift: constant to subtract.  scale: factor.  Each constant is a number, or a tensor (R, 1, 1) with one value per
    replica.  largest_slope: the largest |f'(z)|, which says what is saturated.
    Raises ValueError if a constant is not finite or exceeds 1e18 in size, if scale is not positive, or if shift is so
    large that nothing of f is left in float32.
    """

    shift: float | Tensor = 0.0
    scale: float | Tensor = 1.0
    largest_slope: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        for name, value in self.constants.items():
            if not isinstance(value, (int, float, Tensor)) or isinstance(value, bool) or not _all_small(value):
                raise ValueError(f"{name} is {value!r}; expected a finite number, up to {LARGEST}")
        if not (torch.as_tensor(self.scale) > 0).all():
            raise ValueError(f"scale is {self.scale!r}; expected a positive number")
        device = next((c.device for c in self.constants.values() if isinstance(c, Tensor)), None)
        a = self.f(torch.linspace(-8, 8, 9, device=device)) - self.shift
        if (a == a[..., :1]).all(-1).any():
            raise ValueError(f"shift is {self.shift!r}; expected a smaller one: f(z) - shift is constant in float32")

    @property
    def constants(self) -> dict[str, float | Tensor]:
        """All constants by name: those of f, shift and scale."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def to(self, device: torch.device) -> Self:
        """Returns this activation with its tensors on `device`."""
        return self.map_constants(lambda constant: constant.to(device))

    def map_constants(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Returns this activation with `change` applied to those of its constants that are tensors."""
        tensors = {name: change(value) for name, value in self.constants.items() if isinstance(value, Tensor)}
        return replace(self, **tensors) if tensors else self

    @abstractmethod
    def f(self, z: Tensor) -> Tensor:
        """f(z), elementwise: (R, D, B) -> (R, D, B)."""

    @abstractmethod
    def f_backward(self, z: Tensor, grad: Tensor) -> Tensor:
        """grad * f'(z), elementwise. At a kink, z = 0, the slope is that of the left, as in torch."""

    def __call__(self, z: Tensor) -> Tensor:
        """a = phi(z) = scale * (f(z) - shift), elementwise: (R, D, B) -> (R, D, B)."""
        a = self.f(z)
        if _differs(self.shift, 0):
            a = a - self.shift
        return a * self.scale if _differs(self.scale, 1) else a

    def backward(self, z: Tensor, grad: Tensor) -> Tensor:
        """dL/dz = dL/da * scale * f'(z): (R, D, B) -> (R, D, B).  z: pre-activations.  grad: dL/da."""
        delta = self.f_backward(z, grad)
        return delta * self.scale if _differs(self.scale, 1) else delta

    def saturated(self, z: Tensor) -> Tensor:
        """Returns where |phi'(z)| is below SATURATED times the largest slope, as bools: (R, D, B) -> (R, D, B)."""
        return self.f_backward(z, torch.ones_like(z)).abs() < SATURATED * self.largest_slope


@dataclass(frozen=True, kw_only=True)
class ReLU(Activation):
    """f(z) = max(z, 0) + leak * min(z, 0),  f'(z) = 1 where z > 0, leak elsewhere.

    leak: slope for z < 0.
    """

    leak: float | Tensor = 0.0

    @property
    def largest_slope(self) -> float | Tensor:  # type: ignore[override]
        """The larger of 1 and |leak|."""
        return self.leak.abs().clamp_min(1) if isinstance(self.leak, Tensor) else max(1.0, abs(self.leak))

    def f(self, z: Tensor) -> Tensor:
        a = z.clamp_min(0)
        if _differs(self.leak, 0):
            a = a + self.leak * z.clamp_max(0)
        return a

    def f_backward(self, z: Tensor, grad: Tensor) -> Tensor:
        if not _differs(self.leak, 0):
            return aten.threshold_backward(grad, z, 0)                   # grad where z > 0, else 0
        if isinstance(self.leak, Tensor):
            return torch.where(z > 0, grad, self.leak * grad)
        return aten.leaky_relu_backward(grad, z, self.leak, False)       # the same, in one pass


@dataclass(frozen=True, kw_only=True)
class Identity(Activation):
    """f(z) = z,  f'(z) = 1: a deep linear network."""

    def f(self, z: Tensor) -> Tensor:
        return z

    def f_backward(self, z: Tensor, grad: Tensor) -> Tensor:
        return grad


@dataclass(frozen=True, kw_only=True)
class Tanh(Activation):
    """f(z) = tanh z,  f'(z) = 1 - tanh^2 z."""

    def f(self, z: Tensor) -> Tensor:
        return z.tanh()

    def f_backward(self, z: Tensor, grad: Tensor) -> Tensor:
        return aten.tanh_backward(grad, z.tanh())                        # grad (1 - tanh^2 z)


@dataclass(frozen=True, kw_only=True)
class Sigmoid(Activation):
    """f(z) = s(z) = 1 / (1 + e^-z),  f'(z) = s (1 - s)."""

    largest_slope: ClassVar[float] = 0.25

    def f(self, z: Tensor) -> Tensor:
        return z.sigmoid()

    def f_backward(self, z: Tensor, grad: Tensor) -> Tensor:
        return aten.sigmoid_backward(grad, z.sigmoid())                  # grad s (1 - s)


@dataclass(frozen=True, kw_only=True)
class Softsign(Activation):
    """f(z) = z / (1 + |z|),  f'(z) = 1 / (1 + |z|)^2. Source: Glorot & Bengio (2010), section 2.2."""

    def f(self, z: Tensor) -> Tensor:
        return functional.softsign(z)

    def f_backward(self, z: Tensor, grad: Tensor) -> Tensor:
        return grad / (1 + z.abs()).square()


@dataclass(frozen=True, kw_only=True)
class Softplus(Activation):
    """f(z) = log(1 + e^z),  f'(z) = s(z)."""

    def f(self, z: Tensor) -> Tensor:
        return functional.softplus(z, threshold=40)                      # z itself where z > 40: e^-40 < 1e-17

    def f_backward(self, z: Tensor, grad: Tensor) -> Tensor:
        return aten.softplus_backward(grad, z, 1, 40)                    # grad s(z)


@dataclass(frozen=True, kw_only=True)
class ELU(Activation):
    """f(z) = z where z > 0, alpha (e^z - 1) elsewhere;  f'(z) = 1 where z > 0, alpha e^z elsewhere.

    Source: Clevert, Unterthiner & Hochreiter (2016), "Fast and accurate deep network learning by exponential linear
    units (ELUs)", eq. 15.
    """

    alpha: float | Tensor = 1.0

    @property
    def largest_slope(self) -> float | Tensor:  # type: ignore[override]
        """The larger of 1 and |alpha|."""
        return self.alpha.abs().clamp_min(1) if isinstance(self.alpha, Tensor) else max(1.0, abs(self.alpha))

    def f(self, z: Tensor) -> Tensor:
        return z.clamp_min(0) + self.alpha * z.clamp_max(0).expm1()

    def f_backward(self, z: Tensor, grad: Tensor) -> Tensor:
        if isinstance(self.alpha, Tensor):
            return torch.where(z > 0, grad, grad * self.alpha * z.clamp_max(0).exp())
        return aten.elu_backward(grad, self.alpha, 1, 1, False, z)       # the same, in one pass


@dataclass(frozen=True, kw_only=True)
class SELU(Activation):
    """f(z) = LAMBDA * ELU(z) with alpha = ALPHA: weights N(0, 1/fan_in) keep mean 0 and variance 1.

    Source: Klambauer et al. (2017), "Self-normalizing neural networks", eq. 2 and 14.
    """

    ALPHA: ClassVar[float] = 1.6732632423543772
    LAMBDA: ClassVar[float] = 1.0507009873554805
    largest_slope: ClassVar[float] = LAMBDA * ALPHA  # just below 0

    def f(self, z: Tensor) -> Tensor:
        return functional.selu(z)

    def f_backward(self, z: Tensor, grad: Tensor) -> Tensor:
        # grad LAMBDA where z > 0, grad LAMBDA ALPHA e^z elsewhere
        return aten.elu_backward(grad, self.ALPHA, self.LAMBDA, 1, False, z)


@dataclass(frozen=True, kw_only=True)
class GELU(Activation):
    """f(z) = z P(z), P(z) = (1 + erf(z / sqrt 2)) / 2;  f'(z) = P(z) + z e^(-z^2/2) / sqrt(2 pi).

    Source: Hendrycks & Gimpel (2016), "Gaussian error linear units (GELUs)", section 2.
    """

    largest_slope: ClassVar[float] = 1.128904145185155  # at z = sqrt 2

    def f(self, z: Tensor) -> Tensor:
        return functional.gelu(z)

    def f_backward(self, z: Tensor, grad: Tensor) -> Tensor:
        return aten.gelu_backward(grad, z)                               # grad (P(z) + z e^(-z^2/2) / sqrt(2 pi))


@dataclass(frozen=True, kw_only=True)
class SiLU(Activation):
    """f(z) = z s(z),  f'(z) = s (1 + z (1 - s)), s(z) the sigmoid; also called Swish.

    Source: Hendrycks & Gimpel (2016), section 4; Ramachandran, Zoph & Le (2017), "Searching for activation functions".
    """

    largest_slope: ClassVar[float] = 1.099839320128867  # at z = 2.3994

    def f(self, z: Tensor) -> Tensor:
        return functional.silu(z)

    def f_backward(self, z: Tensor, grad: Tensor) -> Tensor:
        return aten.silu_backward(grad, z)                               # grad s (1 + z (1 - s))


@dataclass(frozen=True, kw_only=True)
class Erf(Activation):
    """f(z) = erf z,  f'(z) = 2 e^(-z^2) / sqrt(pi)."""

    largest_slope: ClassVar[float] = 2 / sqrt(pi)

    def f(self, z: Tensor) -> Tensor:
        return z.erf()

    def f_backward(self, z: Tensor, grad: Tensor) -> Tensor:
        return grad * (2 / sqrt(pi)) * torch.exp(-z.square())


def _all_small(constant: float | Tensor) -> bool:
    """Returns whether every entry is finite and at most LARGEST in size."""
    if isinstance(constant, Tensor):
        return bool((constant.abs() <= LARGEST).all())
    return abs(constant) <= LARGEST


def _differs(constant: float | Tensor, neutral: float) -> bool:
    """Returns whether a term has to be computed: if its constant is a tensor, or differs from the neutral value."""
    return isinstance(constant, Tensor) or constant != neutral
