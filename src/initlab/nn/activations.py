"""Activation functions, each next to its derivative.

Shapes: R replicas, D width of the layer, B batch.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

aten = torch.ops.aten  # kernels that take one pass where torch's public functions take several
LARGEST = 1e18  # of a constant: its square is within float32's range


@dataclass(frozen=True)
class Activation:
    """The ReLU family: phi(z) = scale * (max(z, 0) + leak * min(z, 0) - shift).

    leak: slope for z < 0.  shift: constant to subtract.  scale: factor.  Each is a number, or a tensor (R, 1, 1) with
    one value per replica.
    Raises ValueError if a constant is not finite or exceeds 1e18 in size, or if scale is not positive.
    """

    leak: float | Tensor = 0.0
    shift: float | Tensor = 0.0
    scale: float | Tensor = 1.0

    def __post_init__(self) -> None:
        for name in ("leak", "shift", "scale"):
            value = getattr(self, name)
            if not isinstance(value, (int, float, Tensor)) or isinstance(value, bool) or not _all_small(value):
                raise ValueError(f"{name} is {value!r}; expected a finite number, up to {LARGEST}")
        if not (torch.as_tensor(self.scale) > 0).all():
            raise ValueError(f"scale is {self.scale!r}; expected a positive number")

    def to(self, device: torch.device) -> "Activation":
        """Returns this activation with its tensors on `device`."""
        return self.map_constants(lambda constant: constant.to(device))

    def map_constants(self, change: Callable[[Tensor], Tensor]) -> "Activation":
        """Returns this activation with `change` applied to those of its constants that are tensors."""
        constants = {"leak": self.leak, "shift": self.shift, "scale": self.scale}
        return Activation(**{name: change(c) if isinstance(c, Tensor) else c for name, c in constants.items()})

    def __call__(self, z: Tensor) -> Tensor:
        """a = phi(z), elementwise: (R, D, B) -> (R, D, B)."""
        a = z.clamp_min(0)
        if _differs(self.leak, 0):
            a = a + self.leak * z.clamp_max(0)
        if _differs(self.shift, 0):
            a = a - self.shift
        return a * self.scale if _differs(self.scale, 1) else a

    def backward(self, z: Tensor, grad: Tensor) -> Tensor:
        """dL/dz = dL/da * scale * (1 where z > 0, leak elsewhere): (R, D, B) -> (R, D, B).

        z: pre-activations.  grad: dL/da.  At the kink, z = 0, the slope is `leak`, as in torch.
        """
        if not _differs(self.leak, 0):
            delta = aten.threshold_backward(grad, z, 0)                # grad where z > 0, else 0
        elif isinstance(self.leak, Tensor):
            delta = torch.where(z > 0, grad, self.leak * grad)
        else:
            delta = aten.leaky_relu_backward(grad, z, self.leak, False)  # the same, in one pass
        return delta * self.scale if _differs(self.scale, 1) else delta


def _all_small(constant: float | Tensor) -> bool:
    """Returns whether every entry is finite and at most LARGEST in size."""
    if isinstance(constant, Tensor):
        return bool((constant.abs() <= LARGEST).all())
    return abs(constant) <= LARGEST


def _differs(constant: float | Tensor, neutral: float) -> bool:
    """Returns whether a term has to be computed: if its constant is a tensor, or differs from the neutral value."""
    return isinstance(constant, Tensor) or constant != neutral
