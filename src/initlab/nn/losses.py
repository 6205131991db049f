"""Loss functions, each next to its gradient.

Shapes: R replicas, C outputs, B batch. Labels are the numbers of classes, from 0.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Loss(Protocol):
    """A loss function: the number of outputs it needs, the loss with its gradient, and the predicted class.

    It is made with `classes=`, the number of classes of the data.
    """

    @property
    def outputs(self) -> int: ...

    def __call__(self, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the loss of each image (R, B), and delta = dL/dz (R, C, B) of their mean over B.

        z: outputs of the network (R, C, B).  y: labels (B,).
        """

    def predict(self, z: Tensor) -> Tensor:
        """Returns the predicted classes: (R, C, B) -> (R, B)."""


@dataclass(frozen=True)
class CrossEntropy:
    """Softmax cross-entropy: L = -(1/B) sum_i log p[y_i, i], p = softmax(z) over C outputs, one per class.

    Raises ValueError for fewer than two classes.
    """

    classes: int

    def __post_init__(self) -> None:
        _check_classes(self.classes)

    @property
    def outputs(self) -> int:
        """One per class."""
        return self.classes

    def __call__(self, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Returns losses (R, B) and delta = (p - onehot(y)) / B (R, C, B).

        z: outputs of the network (R, C, B).  y: labels (B,), int64 in [0, C).
        Source: Bishop (2006), Pattern Recognition and Machine Learning, eq. 4.109.
        """
        onehot = torch.eye(self.classes, dtype=z.dtype, device=z.device).index_select(1, y)  # (C, B)
        log_p = z.log_softmax(1)                                        # log p = z - log sum_C e^z
        losses = -(log_p * onehot).sum(1)                               # -log p[y]
        return losses, (log_p.exp() - onehot) / y.numel()               # (p - onehot(y)) / B

    def predict(self, z: Tensor) -> Tensor:
        """Returns the most probable class, the first that is NaN if any is: (R, C, B) -> (R, B)."""
        nan = z.isnan()  # on some devices, argmax ignores a NaN
        return torch.where(nan.any(1), nan.int().argmax(1), z.argmax(1))


@dataclass(frozen=True)
class MeanSquaredError:
    """Squared error of one output against the class itself, L = (1/B) sum_i (z_i - y_i)^2: the lesson's stand-in.

    Raises ValueError for fewer than two classes.
    """

    classes: int

    def __post_init__(self) -> None:
        _check_classes(self.classes)

    @property
    def outputs(self) -> int:
        """One, whatever the number of classes."""
        return 1

    def __call__(self, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Returns losses (R, B) and delta = 2 (z - y) / B (R, 1, B), from z (R, 1, B) and y (B,)."""
        error = z - y                                                   # (R, 1, B)
        return error.squeeze(1) ** 2, 2 * error / y.numel()

    def predict(self, z: Tensor) -> Tensor:
        """Returns the nearest class, NaN for NaN: (R, 1, B) -> (R, B)."""
        z = z.squeeze(1)
        return torch.where(z.isnan(), z, z.round().clamp(0, self.classes - 1))  # on some devices, clamp ignores a NaN


def _check_classes(classes: object) -> None:
    """Raises ValueError unless it is a number of classes. A logged model has this file, and not initlab.checks."""
    if type(classes) is not int or classes < 2:
        raise ValueError(f"classes is {classes!r}; expected a whole number of at least 2")
