"""Forward, losses and backward against closed forms, autograd and finite differences, in float64."""

from math import log, pi, sqrt

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from initlab.nn import mlp
from initlab.nn.activations import Activation, ReLU
from initlab.nn.losses import CrossEntropy, MeanSquaredError

R, B, INPUTS = 3, 7, 12

PHIS = {
    "relu": ReLU(),
    "leaky_relu": ReLU(leak=0.01),
    "shifted_relu": ReLU(shift=0.5),
    "unit_relu": ReLU(shift=1 / sqrt(2 * pi), scale=1 / sqrt(0.5 - 0.5 / pi)),
    "all_three": ReLU(leak=-0.3, shift=-0.2, scale=1.7),
    "one_a_replica": ReLU(
        leak=torch.tensor([0.0, 0.2, 0.01], dtype=torch.float64).view(R, 1, 1),
        shift=torch.tensor([0.5, 0.0, 0.1], dtype=torch.float64).view(R, 1, 1),
        scale=torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64).view(R, 1, 1),
    ),
}
LOSSES = {"cross_entropy": CrossEntropy(10), "mse": MeanSquaredError(10)}


def network(hidden: int, outputs: int, replicas: int = R) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
    """x (E, B), y (B,), weights and biases of `hidden` layers of 9, 8, 9, 8, ... units, in float64."""
    generator = torch.Generator().manual_seed(7)
    widths = [INPUTS, *(9 - layer % 2 for layer in range(hidden)), outputs]
    x = torch.randn(INPUTS, B, dtype=torch.float64, generator=generator)
    y = torch.randint(0, 10, (B,), generator=generator)
    shapes = list(zip(widths[1:], widths[:-1], strict=True))
    weights = [torch.randn(replicas, *s, dtype=torch.float64, generator=generator) * sqrt(2 / s[1]) for s in shapes]
    biases = [torch.randn(replicas, s[0], 1, dtype=torch.float64, generator=generator) / 10 for s in shapes]
    return x, y, weights, biases


def loss_written_in_torch(
    x: Tensor, y: Tensor, weights: list[Tensor], biases: list[Tensor], phi: Activation, name: str
) -> Tensor:
    """The same loss, summed over replicas, in torch's own layout, (B, D), and its own functions."""
    total = torch.zeros((), dtype=torch.float64)
    constants = (phi.leak, phi.shift, phi.scale)
    leak, shift, scale = (torch.as_tensor(c, dtype=torch.float64).expand(R, 1, 1) for c in constants)
    for r in range(len(weights[0])):
        a = x.T
        for layer, (W, b) in enumerate(zip(weights, biases, strict=True)):
            a = functional.linear(a, W[r], b[r, :, 0])
            if layer < len(weights) - 1:
                a = scale[r] * (functional.relu(a) - leak[r] * functional.relu(-a) - shift[r])
        total = total + (
            functional.cross_entropy(a, y) if name == "cross_entropy" else functional.mse_loss(a[:, 0], y.double())
        )
    return total


@pytest.mark.parametrize("hidden", [0, 1, 2, 8])
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("phi", PHIS.values(), ids=PHIS)
def test_backward_equals_autograd(phi: Activation, name: str, hidden: int) -> None:
    x, y, weights, biases = network(hidden, LOSSES[name].outputs)
    losses, gradients, _ = mlp.loss_and_gradients(x, y, weights, biases, phi, LOSSES[name])
    leaves = [tensor.clone().requires_grad_() for tensor in weights + biases]
    total = loss_written_in_torch(x, y, leaves[: len(weights)], leaves[len(weights) :], phi, name)
    expected = torch.autograd.grad(total, leaves)
    # Rounding alone: sums of some hundred terms of order 1, in double precision.
    torch.testing.assert_close(losses.sum(), total.detach(), rtol=1e-12, atol=1e-12)
    for ours, theirs in zip([g.W for g in gradients] + [g.b for g in gradients], expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("hidden", [1, 2, 8])
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("phi", PHIS.values(), ids=PHIS)
def test_backward_equals_finite_differences(phi: Activation, name: str, hidden: int) -> None:
    """Along a random direction, (L(+h) - L(-h)) / 2h is the slope to O(h^2) + O(eps / h), away from phi's kinks."""
    x, y, weights, biases = network(hidden, LOSSES[name].outputs)
    _, gradients, trace = mlp.loss_and_gradients(x, y, weights, biases, phi, LOSSES[name])
    h = 1e-6

    def moved(directions: list[Tensor], step: float) -> tuple[Tensor, mlp.Trace]:
        there = [W + step * d for W, d in zip(weights, directions, strict=True)]
        losses, _, at = mlp.loss_and_gradients(x, y, there, biases, phi, LOSSES[name])
        return losses, at

    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        directions = [torch.randn(W.shape, dtype=torch.float64, generator=generator) for W in weights]
        (above, up), (below, down) = moved(directions, h), moved(directions, -h)
        sides = zip(up.z[:-1], trace.z[:-1], down.z[:-1], strict=True)
        if all(((u > 0) == (z > 0)).all() and ((d > 0) == (z > 0)).all() for u, z, d in sides):
            break
    else:
        pytest.fail("every direction crosses a kink")
    slope = sum((g.W * d).sum((1, 2)) for g, d in zip(gradients, directions, strict=True))
    # h^2 is 1e-12 and eps / h 2e-10, both relative to losses and third derivatives of some hundreds.
    torch.testing.assert_close((above - below) / (2 * h), slope, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("hidden", [0, 1, 2, 8])
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("phi", PHIS.values(), ids=PHIS)
def test_descend_is_torch_sgd_on_the_gradients(phi: Activation, name: str, hidden: int) -> None:
    x, y, weights, biases = network(hidden, LOSSES[name].outputs)
    losses, gradients, _ = mlp.loss_and_gradients(x, y, weights, biases, phi, LOSSES[name])
    expected = [tensor.clone() for tensor in weights + biases]
    for tensor, gradient in zip(expected, [g.W for g in gradients] + [g.b for g in gradients], strict=True):
        tensor.grad = gradient
    torch.optim.SGD(expected, lr=0.1).step()
    assert torch.equal(mlp.sgd_step(x, y, weights, biases, phi, LOSSES[name], lr=0.1), losses)
    for ours, theirs in zip(weights + biases, expected, strict=True):  # W - lr g is rounded once here, twice there
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", LOSSES)
def test_replicas_never_mix(name: str) -> None:
    """R replicas at once give what each gives alone; and moving one moves no other, not by a bit."""
    x, y, weights, biases = network(2, LOSSES[name].outputs)
    together, gradients, _ = mlp.loss_and_gradients(x, y, weights, biases, ReLU(), LOSSES[name])
    for r in range(R):
        one = slice(r, r + 1)
        alone, single, _ = mlp.loss_and_gradients(
            x, y, [W[one] for W in weights], [b[one] for b in biases], ReLU(), LOSSES[name]
        )
        torch.testing.assert_close(together[one], alone, rtol=1e-12, atol=0)
        for ours, theirs in zip(gradients, single, strict=True):
            torch.testing.assert_close(ours.W[one], theirs.W, rtol=1e-11, atol=1e-14)
    weights[0][0] += 1
    moved, _, _ = mlp.loss_and_gradients(x, y, weights, biases, ReLU(), LOSSES[name])
    assert moved[0] != together[0]
    assert torch.equal(moved[1:], together[1:])


def test_cross_entropy_deltas_sum_to_zero() -> None:
    """The probabilities sum to 1 and so does the one-hot label: dL/dz has column sums of 0."""
    z = torch.randn(R, 10, B, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 5
    _, delta = CrossEntropy(10)(z, torch.arange(B))
    torch.testing.assert_close(delta.sum(1), torch.zeros(R, B, dtype=torch.float64), rtol=0, atol=1e-15)


def test_zero_weights_give_log_c() -> None:
    x, y, weights, biases = network(1, 10)
    nought = [torch.zeros_like(t) for t in weights], [torch.zeros_like(t) for t in biases]
    losses, _, _ = mlp.loss_and_gradients(x, y, *nought, ReLU(), CrossEntropy(10))
    torch.testing.assert_close(losses, torch.full((R,), log(10), dtype=torch.float64), rtol=1e-15, atol=0)


def test_cross_entropy_survives_large_logits() -> None:
    """log-sum-exp shifts by the maximum: logits of 1e4, as `normal` makes on deep networks, do not overflow."""
    z = torch.tensor([[[1e4], [-1e4], [0.0]]])
    losses, delta = CrossEntropy(classes=3)(z, torch.tensor([1]))
    assert losses.item() == 2e4
    assert delta.flatten().tolist() == [1, -1, 0]


def test_squared_error_by_hand() -> None:
    """z = 3, y = 5: (3 - 5)^2 = 4, slope 2 (3 - 5) = -4; over B = 2 images the slope is halved."""
    losses, delta = MeanSquaredError(10)(torch.tensor([[[3.0, 5.0]]]), torch.tensor([5, 5]))
    assert losses.tolist() == [[4, 0]]
    assert delta.tolist() == [[[-2, 0]]]


def test_predictions() -> None:
    z = torch.tensor([[[0.0, 9.0], [1.0, 2.0]]])
    assert CrossEntropy(classes=2).predict(z).tolist() == [[1, 0]]
    outputs = torch.tensor([[[-3.0, 2.4, 2.6, 99.0]]])
    assert MeanSquaredError(10).predict(outputs).tolist() == [[0, 2, 3, 9]]
    assert MeanSquaredError(47).predict(outputs).tolist() == [[0, 2, 3, 46]]


def test_activation_by_hand() -> None:
    """phi(z) = scale * (max(z, 0) + leak * min(z, 0) - shift), and its slope, on both sides."""
    phi = ReLU(leak=0.1, shift=0.5, scale=2)
    z = torch.tensor([3.0, -1.0])
    torch.testing.assert_close(phi(z), torch.tensor([5.0, -1.2]))
    torch.testing.assert_close(phi.backward(z, torch.ones(2)), torch.tensor([2.0, 0.2]))


def test_unit_relu_has_mean_0_and_variance_1() -> None:
    """Over N(0, 1), max(z, 0) has mean 1/sqrt(2 pi) and second moment 1/2: by quadrature, to its own accuracy."""
    z = torch.linspace(-12, 12, 2_400_001, dtype=torch.float64)
    density = torch.exp(-(z**2) / 2) / sqrt(2 * pi)
    a = PHIS["unit_relu"](z)
    assert abs(torch.trapezoid(a * density, z)) < 1e-10
    assert abs(torch.trapezoid(a**2 * density, z) - 1) < 1e-10


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"leak": "abc"}, "leak is 'abc'"),
        ({"shift": float("nan")}, "shift is nan"),
        ({"shift": 10**20}, r"shift is 10{20}; expected a finite number, up to 1e\+18"),
        ({"scale": 0}, "scale is 0; expected a positive number"),
    ],
)
def test_activation_refuses(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReLU(**values)
