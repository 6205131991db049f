"""Each formula against sampling, at a width and a number of draws that make the standard error sharp."""

from math import pi, sqrt

import numpy as np
import pytest
import torch
from test_init import EQUAL, VARIANTS, activation, scheme

from initlab.nn import init, layer_stats, mlp, theory
from initlab.nn.activations import Activation, ReLU

RELU, SHIFTED = ReLU(), ReLU(shift=0.5)
FAMILY = [RELU, SHIFTED, ReLU(leak=0.2), ReLU(leak=0.1, shift=0.3, scale=1.7)]
of = theory.Phi.of
WIDTHS = [64, 300, 300, 200, 10]  # widths that differ, so that fan_in is not taken for fan_out
REPLICAS = 150


def bias(scheme: init.Scheme, width: int, phi: Activation | None = None) -> float:
    """What a finite width takes a moment off by, relatively; phi: its activation, of a second moment.

    None of a second moment that is linear in q, as is a ReLU's without a shift; where sqrt(q) is in it, 1 % is allowed.
    Of a sparse unit's few connections the sum is not quite normal.
    LSUV takes a layer's variance about its mean over units, which is not zero, to 1: off by up to 1 / width.
    """
    if scheme.unit_variance:
        return max(0.01, 1 / width)
    if isinstance(scheme, init.Sparse):
        return 1 / scheme.connections
    return 1e-6 if phi is not None and phi.shift == 0 else 0.01  # float32's rounding


def expected_of(scheme: init.Scheme, widths: list[int], x: torch.Tensor, phi: Activation) -> list[theory.Moments]:
    """What theory expects of each layer on x (E, B)."""
    products = x.double().mT @ x.double()
    return theory.moments(init.drawn_layers(scheme, widths), products.diagonal(), of(phi), products)


def drawn(
    variant: str, x: torch.Tensor, *, seed: int
) -> tuple[Activation, list[torch.Tensor], mlp.Trace, list[theory.Moments]]:
    """A variant's activation, weights, and forward pass on x (E, B), and what theory expects of each layer."""
    phi = activation(variant)
    weights, biases = init.draw(scheme(variant), WIDTHS, replicas=REPLICAS, seed=seed)
    scheme(variant).calibrate(weights, x, phi)
    trace = mlp.forward(x, weights, biases, phi)
    return phi, weights, trace, expected_of(scheme(variant), WIDTHS, x, phi)


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    """48 inputs (64, B) whose norms differ threefold, and whose mean is not zero."""
    generator = torch.Generator().manual_seed(1)
    return (torch.randn(64, 48, generator=generator) + 0.3) * torch.linspace(0.5, 1.5, 48)


@pytest.mark.parametrize("q", [0.3, 2.0])
@pytest.mark.parametrize("phi", FAMILY, ids=str)
def test_moments_of_phi(phi: Activation, q: float) -> None:
    """E[phi], E[phi^2] and Var phi of a million normal draws, within 4 standard errors."""
    n = 1_000_000
    z = torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * sqrt(q)
    a = phi(z)
    assert abs(a.mean() - theory.act_mean(q, of(phi))) < 4 * a.std() / sqrt(n)
    assert abs(a.square().mean() - theory.act_second(q, of(phi))) < 4 * a.square().std() / sqrt(n)
    deviations = (a - a.mean()).square()
    assert abs(deviations.mean() - theory.act_variance(q, of(phi))) < 4 * deviations.std() / sqrt(n)
    difference = theory.act_second(q, of(phi)) - theory.act_mean(q, of(phi)) ** 2
    assert theory.act_variance(q, of(phi)) == pytest.approx(difference, rel=1e-12)


def test_the_shift_that_makes_the_mean_zero() -> None:
    """1 / sqrt(pi) for unit Gaussian input and Kaiming's weights; a shift never changes the variance."""
    shift = theory.zero_mean_shift(2)
    assert shift == pytest.approx(1 / sqrt(pi), rel=1e-12)
    assert theory.act_mean(2, of(ReLU(shift=shift))) == pytest.approx(0, abs=1e-12)
    assert theory.act_variance(2, of(ReLU(shift=shift))) == theory.act_variance(2, of(RELU))
    assert theory.act_mean(0.7, of(ReLU(leak=0.2, shift=theory.zero_mean_shift(0.7, 0.2)))) == pytest.approx(0)


@pytest.mark.parametrize("variant", [variant for variant in VARIANTS if scheme(variant).zero_mean])
def test_every_variant_layer_by_layer(variant: str, x: torch.Tensor) -> None:
    """Second moments, mean and saturated fraction of each layer, within 4 standard errors over draws and the bias."""
    phi, _, trace, expected = drawn(variant, x, seed=5)
    for z, a, layer in zip(trace.z, trace.a[1:], expected, strict=True):
        quantities = [
            (layer.preact_mean, z, None),
            (layer.preact_second, z.square(), phi),
            (layer.act_mean, a, None),
            (layer.act_second, a.square(), phi),
        ]
        if layer is not expected[-1]:
            quantities.append((layer.saturated_fraction, (z <= 0).float(), None))
        for value, entries, squared in quantities:
            means = entries.mean((1, 2))
            allowed = 4 * means.std().item() / sqrt(REPLICAS) + bias(scheme(variant), z.shape[1], squared) * abs(value)
            assert abs(means.mean().item() - value) <= allowed
        if layer is not expected[-1] and variant != "zeros":  # whose activations have no direction
            cosines = layer_stats.mean_cosine(a)
            error = 4 * cosines.std().item() / sqrt(REPLICAS) + 1 / z.shape[1]  # a ratio of means is not their mean
            error += 0.02 if isinstance(scheme(variant), init.Sparse) else 0
            assert abs(cosines.mean().item() - layer.act_cosine) < error


@pytest.mark.parametrize("variant", [variant for variant in VARIANTS if variant not in EQUAL])
def test_backward_ratio_of_every_variant(variant: str, x: torch.Tensor) -> None:
    """E[delta_l^2] / E[delta_{l+1}^2] from a random gradient at the output, within 4 standard errors and the bias."""
    phi, weights, trace, expected = drawn(variant, x, seed=6)
    delta = torch.randn(trace.z[-1].shape, generator=torch.Generator().manual_seed(2))
    squares = [gradient.z.square().mean((1, 2)) for gradient in mlp.backward(trace, weights, delta, phi)]
    for below, above, layer, width in zip(squares[:-1], squares[1:], expected[:-1], WIDTHS[2:], strict=True):
        ratios = below / above
        error = 4 * ratios.std().item() / sqrt(REPLICAS)
        allowed = error + bias(scheme(variant), width, RELU) * layer.backward_ratio  # phi' is no function of q
        assert abs(ratios.mean().item() - layer.backward_ratio) < allowed
    assert np.isnan(expected[-1].backward_ratio)


@pytest.mark.parametrize(
    ("chosen", "rate"),
    [
        (init.VarianceScaling(1), 1 / 2),
        (init.kaiming(), 1),
        (init.VarianceScaling(1 / 3, "fan_in", "uniform"), 1 / 6),  # torch's Linear, without its biases
        (init.VarianceScaling(1, "one"), 256 / 2),
    ],
    ids=["lecun", "kaiming", "pytorch", "normal"],
)
def test_rate_of_second_moments(chosen: init.Scheme, rate: float) -> None:
    """The slope of log E[a_l^2] against depth, by regression, within 4 standard errors of log rate.

    E[log] lies below log E by half the variance of a layer's factor: 5 / (2 width) for normal weights, added here.
    """
    width, depth, replicas = 256, 10, 100
    x = torch.randn(width, 16, generator=torch.Generator().manual_seed(3))
    weights, biases = init.draw(chosen, [width] * (depth + 1), replicas=replicas, seed=7)
    trace = mlp.forward(x, weights, biases, RELU)
    logs = torch.stack([a.double().square().mean((1, 2)).log() for a in trace.a[1:-1]], 1)  # (R, L)
    slopes = np.polyfit(np.arange(depth - 1), logs.numpy().T, 1)[0]
    error = slopes.std(ddof=1) / sqrt(replicas)
    assert abs(slopes.mean() + 5 / (2 * width) - np.log(rate)) < 4 * error


@pytest.mark.parametrize("shift", [0.25, 0.5, 1.0])
def test_a_shift_gives_kaiming_a_fixed_point(shift: float) -> None:
    """q* = pi shift^2 / 2, approached by a factor of 1 - 2/pi a layer: regression on the map recovers both."""
    phi = ReLU(shift=shift)
    point = theory.fixed_point(2, of(phi))
    assert point is not None
    assert point.q == pytest.approx(pi * shift**2 / 2, rel=1e-12)
    assert point.rate == pytest.approx(1 - 2 / pi, rel=1e-12)
    q = [1.05 * point.q]
    for _ in range(12):
        q.append(float(2 * theory.act_second(q[-1], of(phi))))
    slope = np.polyfit(np.arange(6), np.log(np.abs(np.array(q[6:12]) - point.q)), 1)[0]
    assert np.exp(slope) == pytest.approx(point.rate, rel=1e-3)  # what is left of the map's curvature after six layers


def test_fixed_points_of_others() -> None:
    """None where every scale is kept (Kaiming) or none (LeCun); 1, neither attracting nor not, for the unit ReLU."""
    assert theory.fixed_point(2, of(RELU)) is None
    assert theory.fixed_point(1, of(RELU)) is None
    unit = theory.fixed_point(1, of(activation("unit_relu")))
    assert unit is not None
    assert (unit.q, unit.rate) == pytest.approx((1, 1), rel=1e-6)  # a double root: half of the digits
    leaky = ReLU(leak=0.3, shift=0.4, scale=0.9)
    point = theory.fixed_point(1.2, of(leaky))
    assert point is not None
    assert 1.2 * theory.act_second(point.q, of(leaky)) == pytest.approx(point.q, rel=1e-12)
    step = 1e-6
    derivative = (
        1.2 * (theory.act_second(point.q + step, of(leaky)) - theory.act_second(point.q - step, of(leaky))) / (2 * step)
    )
    assert derivative == pytest.approx(point.rate, rel=1e-6)


def test_spread_of_the_first_layers_mean(x: torch.Tensor) -> None:
    """Over 4,000 draws; the standard error of a standard deviation is 1 / sqrt(2 n) of it."""
    draws, width = 4000, 20
    (W,), _ = init.draw(init.kaiming(), [64, width], replicas=draws, seed=8)
    means = (W @ x).mean((1, 2))
    expected = theory.preact_mean_spread(x.mean(1), 2 / 64, width)
    assert abs(means.std().item() / expected - 1) < 4 / sqrt(2 * draws)
