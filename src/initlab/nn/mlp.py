"""The multilayer perceptron by hand: forward, loss and backward, over a leading replica axis.

    R replicas, B batch, E width of layer l-1, D width of layer l, C outputs; images are columns, as in textbooks:

    a_0 = x                        (E, B), shared by all replicas
    z_l = W_l a_{l-1} + b_l        (R, D, B) = (R, D, E) (R, E, B) + (R, D, 1)
    a_l = phi(z_l)                 hidden layers; the last layer is linear
    delta_l = dL_r/dz_l            (R, D, B), L_r the mean loss of replica r over the batch

Replicas never mix: every product is within one replica, and every mean is over B alone. Autograd is not used.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from initlab.nn.activations import Activation
from initlab.nn.losses import Loss


def linear(a: Tensor, W: Tensor, b: Tensor) -> Tensor:
    """z = W a + b: a (R, E, B) or, shared, (E, B); W (R, D, E); b (R, D, 1) -> (R, D, B).

    With a shared `a` the replicas fold into one wide product, (R*D, E) (E, B), which is faster than R narrow ones.
    """
    if a.dim() == 2:
        R, D, E = W.shape
        return torch.addmm(b.view(R * D, 1), W.view(R * D, E), a).view(R, D, -1)
    return torch.baddbmm(b, W, a)


def linear_backward(a: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of z = W a + b with respect to its parameters.

    a: input activations (R, E, B) or (E, B).  delta: dL/dz (R, D, B), already divided by B.
    Returns dL/dW (R, D, E) and dL/db (R, D, 1).
    Source: Rumelhart, Hinton & Williams (1986), "Learning representations by back-propagating errors", eq. 6.
    """
    gW = delta @ a.mT                       # dL/dW = delta a^T      (R, D, E)
    gb = delta.sum(-1, keepdim=True)        # dL/db = sum_B delta    (R, D, 1)
    return gW, gb


def linear_sgd_step(W: Tensor, b: Tensor, a: Tensor, delta: Tensor, *, lr: float) -> None:
    """W <- W - lr delta a^T, b <- b - lr sum_B delta, in place; shapes as in `linear_backward`.

    The product is added to W as it is computed, so the gradient, as large as W itself, is never written to memory.
    """
    if a.dim() == 2:
        R, D, E = W.shape
        W.view(R * D, E).addmm_(delta.view(R * D, -1), a.mT, alpha=-lr)
    else:
        W.baddbmm_(delta, a.mT, alpha=-lr)
    b.sub_(delta.sum(-1, keepdim=True), alpha=lr)


def linear_backward_input(W: Tensor, delta: Tensor) -> Tensor:
    """dL/da = W^T delta: (R, D, E), (R, D, B) -> (R, E, B). Not needed for the first layer. Source: ibid., eq. 7."""
    return torch.bmm(W.mT, delta)


class Trace(NamedTuple):
    """Everything that a forward pass computes: z_1..z_L, and a_0..a_L (a_L = z_L, since the last layer is linear)."""

    z: list[Tensor]
    a: list[Tensor]


class Gradient(NamedTuple):
    """The gradients of one layer: dL/dW (R, D, E), dL/db (R, D, 1) and delta = dL/dz (R, D, B)."""

    W: Tensor
    b: Tensor
    z: Tensor


def forward(x: Tensor, weights: list[Tensor], biases: list[Tensor], phi: Activation) -> Trace:
    """Runs x (E, B) through the layers. weights (R, D, E), biases (R, D, 1): first layer first."""
    zs: list[Tensor] = []
    activations = [x]
    for W, b in zip(weights, biases, strict=True):
        z = linear(activations[-1], W, b)
        zs.append(z)
        activations.append(phi(z) if len(zs) < len(weights) else z)
    return Trace(zs, activations)


def backprop(trace: Trace, weights: list[Tensor], delta: Tensor, phi: Activation) -> Iterator[tuple[int, Tensor]]:
    """Applies the chain rule from delta = dL/dz_L (R, C, B) down. Yields (layer, delta_l), the last layer first.

    delta_l = phi'(z_l) * (W_{l+1}^T delta_{l+1}). W_l is not used after delta_l is yielded, so it may change then.
    Source: Nielsen (2015), Neural Networks and Deep Learning, BP1-BP4.
    """
    for layer in reversed(range(len(weights))):
        here = delta
        if layer > 0:
            delta = phi.backward(trace.z[layer - 1], linear_backward_input(weights[layer], delta))
        yield layer, here


def backward(trace: Trace, weights: list[Tensor], delta: Tensor, phi: Activation) -> list[Gradient]:
    """Returns the gradients of all layers, first layer first, from delta = dL/dz_L (R, C, B)."""
    found = backprop(trace, weights, delta, phi)
    return [Gradient(*linear_backward(trace.a[layer], delta), delta) for layer, delta in found][::-1]


def loss_and_gradients(
    x: Tensor, y: Tensor, weights: list[Tensor], biases: list[Tensor], phi: Activation, loss: Loss
) -> tuple[Tensor, list[Gradient], Trace]:
    """Forward, loss and backward on one batch x (E, B), y (B,).

    Returns the mean loss of each replica (R,), the gradients of each layer, and the forward trace.
    """
    trace = forward(x, weights, biases, phi)
    losses, delta = loss(trace.z[-1], y)
    return losses.mean(-1), backward(trace, weights, delta, phi), trace


def sgd_step(
    x: Tensor, y: Tensor, weights: list[Tensor], biases: list[Tensor], phi: Activation, loss: Loss, *, lr: float
) -> Tensor:
    """One step of gradient descent on one batch x (E, B), y (B,): W <- W - lr dL/dW, b <- b - lr dL/db, in place.

    Equivalent to `loss_and_gradients` and torch.optim.SGD, but the gradients are never written to memory.
    Returns the mean loss of each replica (R,) before the step.
    """
    trace = forward(x, weights, biases, phi)
    losses, last = loss(trace.z[-1], y)
    for layer, delta in backprop(trace, weights, last, phi):
        linear_sgd_step(weights[layer], biases[layer], trace.a[layer], delta, lr=lr)
    return losses.mean(-1)
