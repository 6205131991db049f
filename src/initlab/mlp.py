"""The multilayer perceptron by hand: forward, loss and backward, over a leading replica axis.

    R replicas, B batch, E width of layer l-1, D width of layer l, C outputs; columns, as in the textbooks:

    a_0 = x                        (E, B), shared by all replicas
    z_l = W_l a_{l-1} + b_l        (R, D, B) = (R, D, E) (R, E, B) + (R, D, 1)
    a_l = phi(z_l)                 hidden layers; the last layer is linear
    delta_l = dL_r/dz_l            (R, D, B), L_r the mean loss of replica r over the batch

Replicas never mix: every product runs within one r, every mean over B alone. Nothing here uses autograd.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

aten = torch.ops.aten  # kernels that take one pass where torch's public functions take several
LARGEST = 1e18  # of an activation's constants: their squares are within float32's range, integers within int64's


@dataclass(frozen=True)
class Activation:
    """phi(z) = scale * (max(z, 0) + leak * min(z, 0) - shift), the family of ReLUs.

    leak: slope below zero; shift: what is taken off; scale: what it is multiplied by. Each is a number, or a
    tensor (R, 1, 1) with a value a replica.
    Raises ValueError for a constant that is not finite, or above 1e18, or a scale that is not positive.
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
        """The same, with constants that are tensors on `device`."""
        return self.each(lambda constant: constant.to(device))

    def each(self, change: Callable[[Tensor], Tensor]) -> "Activation":
        """The same, with constants that are tensors changed."""
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

        At the kink, z = 0, the slope is `leak`, as in torch.
        """
        if not _differs(self.leak, 0):
            delta = aten.threshold_backward(grad, z, 0)                # grad where z > 0, else 0
        elif isinstance(self.leak, Tensor):
            delta = torch.where(z > 0, grad, self.leak * grad)
        else:
            delta = aten.leaky_relu_backward(grad, z, self.leak, False)  # the same, in one pass
        return delta * self.scale if _differs(self.scale, 1) else delta


def _all_small(constant: float | Tensor) -> bool:
    """Whether no entry is above LARGEST, infinite or nan."""
    if isinstance(constant, Tensor):
        return bool((constant.abs() <= LARGEST).all())
    return abs(constant) <= LARGEST


def _differs(constant: float | Tensor, neutral: float) -> bool:
    """Whether a term has to be computed: a pass over z that would change nothing is left out."""
    return isinstance(constant, Tensor) or constant != neutral


def linear(a: Tensor, W: Tensor, b: Tensor) -> Tensor:
    """z = W a + b: a (R, E, B) or, shared, (E, B); W (R, D, E); b (R, D, 1) -> (R, D, B).

    With a shared `a` the replicas fold into one product, (R*D, E) (E, B): the wider, the faster.
    """
    if a.dim() == 2:
        R, D, E = W.shape
        return torch.addmm(b.view(R * D, 1), W.view(R * D, E), a).view(R, D, -1)
    return torch.baddbmm(b, W, a)


def linear_backward(a: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of z = W a + b by its parameters.

    a: input activations (R, E, B) or (E, B).  delta: dL/dz (R, D, B), already divided by B.
    Returns dL/dW (R, D, E) and dL/db (R, D, 1).
    Source: Rumelhart, Hinton & Williams (1986), "Learning representations by back-propagating errors", eq. 6.
    """
    gW = delta @ a.mT                       # dL/dW = delta a^T      (R, D, E)
    gb = delta.sum(-1, keepdim=True)        # dL/db = sum_B delta    (R, D, 1)
    return gW, gb


def linear_descend(W: Tensor, b: Tensor, a: Tensor, delta: Tensor, *, lr: float) -> None:
    """W <- W - lr delta a^T, b <- b - lr sum_B delta, in place; shapes as in `linear_backward`.

    The product is added to W as it is made: the gradient, as large as W itself, is never written to memory.
    """
    if a.dim() == 2:
        R, D, E = W.shape
        W.view(R * D, E).addmm_(delta.view(R * D, -1), a.mT, alpha=-lr)
    else:
        W.baddbmm_(delta, a.mT, alpha=-lr)
    b.sub_(delta.sum(-1, keepdim=True), alpha=lr)


def linear_backward_input(W: Tensor, delta: Tensor) -> Tensor:
    """dL/da = W^T delta: (R, D, E), (R, D, B) -> (R, E, B). The first layer has no use for it. Source: ibid., eq. 7."""
    return torch.bmm(W.mT, delta)


@runtime_checkable
class Loss(Protocol):
    """What a loss is: a width of the last layer, the loss with its gradient, and the class it predicts."""

    @property
    def outputs(self) -> int: ...

    def __call__(self, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Losses of single images (R, B), and delta = dL/dz of their mean over B (R, C, B)."""

    def predict(self, z: Tensor) -> Tensor:
        """Predicted digits (R, B)."""


@dataclass(frozen=True)
class CrossEntropy:
    """Softmax cross-entropy: L = -(1/B) sum_i log p[y_i, i], p = softmax(z) over the C outputs."""

    outputs: int = 10

    def __post_init__(self) -> None:
        if type(self.outputs) is not int or self.outputs < 2:
            raise ValueError(f"outputs is {self.outputs!r}; expected the number of classes, at least 2")

    def __call__(self, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Losses (R, B) and delta = (p - onehot(y)) / B (R, C, B), from z (R, C, B) and y (B,), int64 in [0, C).

        Source: Bishop (2006), Pattern Recognition and Machine Learning, eq. 4.109.
        """
        onehot = torch.eye(self.outputs, dtype=z.dtype, device=z.device).index_select(1, y)  # (C, B)
        log_p = z.log_softmax(1)                                        # log p = z - log sum_C e^z
        losses = -(log_p * onehot).sum(1)                               # -log p[y]
        return losses, (log_p.exp() - onehot) / y.numel()               # (p - onehot(y)) / B

    def predict(self, z: Tensor) -> Tensor:
        """The most probable class: (R, C, B) -> (R, B)."""
        return z.argmax(1)


@dataclass(frozen=True)
class MeanSquaredError:
    """The lesson's stand-in: one output against the digit itself, L = (1/B) sum_i (z_i - y_i)^2."""

    outputs: int = 1

    def __post_init__(self) -> None:
        if type(self.outputs) is not int or self.outputs != 1:
            raise ValueError(f"outputs is {self.outputs!r}; expected 1: the squared error is taken against the digit")

    def __call__(self, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Losses (R, B) and delta = 2 (z - y) / B (R, 1, B), from z (R, 1, B) and y (B,)."""
        error = z - y                                                   # (R, 1, B)
        return error.squeeze(1) ** 2, 2 * error / y.numel()

    def predict(self, z: Tensor) -> Tensor:
        """The nearest digit: (R, 1, B) -> (R, B)."""
        return z.squeeze(1).round().clamp(0, 9)


class Trace(NamedTuple):
    """What a forward pass leaves: z_1..z_L, and a_0..a_L (a_L = z_L: the last layer is linear)."""

    z: list[Tensor]
    a: list[Tensor]


class Gradient(NamedTuple):
    """Of one layer: dL/dW (R, D, E), dL/db (R, D, 1) and delta = dL/dz (R, D, B)."""

    W: Tensor
    b: Tensor
    z: Tensor


def forward(x: Tensor, weights: list[Tensor], biases: list[Tensor], phi: Activation) -> Trace:
    """Runs x (E, B) through the layers: weights (R, D, E), biases (R, D, 1), first layer first."""
    zs: list[Tensor] = []
    activations = [x]
    for W, b in zip(weights, biases, strict=True):
        z = linear(activations[-1], W, b)
        zs.append(z)
        activations.append(phi(z) if len(zs) < len(weights) else z)
    return Trace(zs, activations)


def errors(trace: Trace, weights: list[Tensor], delta: Tensor, phi: Activation) -> Iterator[tuple[int, Tensor]]:
    """The chain rule from delta = dL/dz_L (R, C, B) down: (l, delta_l), the last layer first.

    delta_l = phi'(z_l) * (W_{l+1}^T delta_{l+1}). Once delta_l is handed out, W_l is no longer needed, and may change.
    Source: Nielsen (2015), Neural Networks and Deep Learning, BP1-BP4.
    """
    for layer in reversed(range(len(weights))):
        here = delta
        if layer > 0:
            delta = phi.backward(trace.z[layer - 1], linear_backward_input(weights[layer], delta))
        yield layer, here


def backward(trace: Trace, weights: list[Tensor], delta: Tensor, phi: Activation) -> list[Gradient]:
    """Gradients of all layers, first layer first, from delta = dL/dz_L (R, C, B)."""
    found = errors(trace, weights, delta, phi)
    return [Gradient(*linear_backward(trace.a[layer], delta), delta) for layer, delta in found][::-1]


def loss_and_gradients(
    x: Tensor, y: Tensor, weights: list[Tensor], biases: list[Tensor], phi: Activation, loss: Loss
) -> tuple[Tensor, list[Gradient], Trace]:
    """Forward, loss, backward on one batch x (E, B), y (B,).

    Returns the mean loss of each replica (R,), the gradients of each layer, and the forward trace.
    """
    trace = forward(x, weights, biases, phi)
    losses, delta = loss(trace.z[-1], y)
    return losses.mean(-1), backward(trace, weights, delta, phi), trace


def descend(
    x: Tensor, y: Tensor, weights: list[Tensor], biases: list[Tensor], phi: Activation, loss: Loss, *, lr: float
) -> Tensor:
    """One step of gradient descent on one batch x (E, B), y (B,): W <- W - lr dL/dW, b <- b - lr dL/db, in place.

    What `loss_and_gradients` and torch.optim.SGD do, without writing the gradients to memory and reading them again.
    Returns the mean loss of each replica (R,), as it was before the step.
    """
    trace = forward(x, weights, biases, phi)
    losses, last = loss(trace.z[-1], y)
    for layer, delta in errors(trace, weights, last, phi):
        linear_descend(weights[layer], biases[layer], trace.a[layer], delta, lr=lr)
    return losses.mean(-1)
