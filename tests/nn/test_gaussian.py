"""Gaussian expectations against closed forms, other quadrature and sampling."""

from math import asin, pi, sqrt

import numpy as np
import pytest

from initlab.nn import gaussian, theory
from initlab.nn.gaussian import FUNCTIONS, Phi

PHIS = [Phi(name) for name in FUNCTIONS]
SMOOTH = [Phi(name) for name in ("Tanh", "Sigmoid", "Softplus", "GELU", "SiLU", "Erf")]
TANH, ERF = Phi("Tanh"), Phi("Erf")


@pytest.mark.parametrize("q", [1e-8, 1e-2, 1.0, 30.0, 1e6])
@pytest.mark.parametrize("phi", PHIS, ids=lambda phi: phi.name)
def test_the_order_suffices(phi: Phi, q: float) -> None:
    """Twice as many nodes give the same to 13 digits, at any scale, for each function that theory integrates."""
    for function in (lambda z: phi.f(z) ** 2, lambda z: phi.slope(z) ** 2, lambda z: phi.f(z) * phi.slope(z) * z):
        coarse, fine = (function(sqrt(q) * u) @ w for u, w in (gaussian.nodes(), gaussian.nodes(2 * gaussian.ORDER)))
        assert coarse == pytest.approx(fine, rel=1e-13)


@pytest.mark.parametrize("phi", SMOOTH, ids=lambda phi: phi.name)
def test_gauss_hermite_agrees_where_it_can(phi: Phi) -> None:
    """Of order 100, for smooth functions at q = 1. At q = 1e4 it is far off: its nodes miss the steep part."""
    u, w = np.polynomial.hermite_e.hermegauss(100)
    w = w / w.sum()
    assert phi.slope(u) ** 2 @ w == pytest.approx(float(gaussian.slope_second(1.0, phi)), rel=1e-8)
    if phi.name in ("Tanh", "Erf", "Sigmoid"):
        off = (phi.slope(100 * u) ** 2 @ w) / float(gaussian.slope_second(1e4, phi)) - 1
        assert abs(off) > 0.1


@pytest.mark.parametrize("q", [1e-6, 0.7, 2.0, 1e3])
def test_closed_forms_of_the_relu_family(q: float) -> None:
    """Each against the same expectation by quadrature, which a function of another name takes."""
    relu = Phi("ReLU", 0.3, 1.7, {"leak": 0.2})
    for closed, function in [
        (gaussian.f_mean(q, relu), relu.f),
        (gaussian.f_second(q, relu), lambda z: relu.f(z) ** 2),
        (gaussian.slope_second(q, relu), lambda z: relu.slope(z) ** 2),
        (gaussian.second_rate(q, relu), lambda z: (relu.f(z) - 0.3) * relu.slope(z) * z / q),
    ]:
        u, w = gaussian.nodes()
        assert closed == pytest.approx(function(sqrt(q) * u) @ w, rel=1e-12)


@pytest.mark.parametrize("c", [-1.0, -0.5, 0.0, 0.3, 0.9, 1.0])
def test_arc_cosine_kernels(c: float) -> None:
    """Cho & Saul (2009), eq. 6, of the angle t: 1 - t/pi and (sin t + (pi - t) cos t)/pi are twice ReLU's."""
    t, relu = np.arccos(c), Phi("ReLU")
    expected = sqrt(0.4 * 2.5) * (np.sin(t) + (pi - t) * c) / (2 * pi)
    assert gaussian.f_product(0.4, 2.5, c, relu) == pytest.approx(expected, abs=1e-15)
    assert gaussian.slope_product(1.3, c, relu) == pytest.approx((1 - t / pi) / 2, abs=1e-15)


@pytest.mark.parametrize("c", [-0.8, 0.0, 0.5, 0.99, 1.0])
@pytest.mark.parametrize(("q1", "q2"), [(0.3, 1.5), (2.0, 2.0), (10.0, 0.1)])
def test_erf_kernel(q1: float, q2: float, c: float) -> None:
    """Williams (1997), "Computing with infinite networks", eq. 11, without biases: by its series here."""
    k = c * sqrt(q1 * q2)
    expected = 2 / pi * asin(2 * k / sqrt((1 + 2 * q1) * (1 + 2 * q2)))
    assert gaussian.f_product(q1, q2, c, ERF) == pytest.approx(expected, abs=1e-7)
    if q1 == q2:
        slope = 4 / pi / sqrt((1 + 2 * q1) ** 2 - (2 * k) ** 2)
        assert gaussian.slope_product(q1, c, ERF) == pytest.approx(slope, abs=1e-5)


@pytest.mark.parametrize("phi", PHIS, ids=lambda phi: phi.name)
def test_products_against_two_dimensions(phi: Phi) -> None:
    """The series against a sum over a grid of nodes, z' = sqrt(q2) (c u + sqrt(1 - c^2) u')."""
    u, w = gaussian.nodes(8)
    q1, q2, c = 0.8, 1.7, 0.6
    other = sqrt(q2) * (c * u[:, None] + sqrt(1 - c**2) * u)
    expected = w @ (phi.f(sqrt(q1) * u)[:, None] * phi.f(other)) @ w
    assert gaussian.f_product(q1, q2, c, phi) == pytest.approx(expected, rel=1e-4)  # of a kink in the grid's midst
    same = sqrt(q1) * (c * u[:, None] + sqrt(1 - c**2) * u)
    slopes = w @ (phi.slope(sqrt(q1) * u)[:, None] * phi.slope(same)) @ w
    assert gaussian.slope_product(q1, c, phi) == pytest.approx(slopes, rel=2e-3)


@pytest.mark.parametrize("phi", PHIS, ids=lambda phi: phi.name)
def test_products_at_correlation_1_are_squares(phi: Phi) -> None:
    for q in (0.1, 1.0, 50.0):
        assert gaussian.f_product(q, q, 1.0, phi) == pytest.approx(float(gaussian.f_second(q, phi)), rel=1e-12)
        assert gaussian.slope_product(q, 1.0, phi) == pytest.approx(float(gaussian.slope_second(q, phi)), rel=1e-12)


@pytest.mark.parametrize("phi", PHIS, ids=lambda phi: phi.name)
def test_saturated_fraction_by_sampling(phi: Phi) -> None:
    """Of 400,000 normal draws, within 4 standard errors; half for ReLU, whatever q; at q = 0, z is 0."""
    z = np.random.default_rng(0).standard_normal(400_000) * 2
    largest = FUNCTIONS[phi.name][2]()
    share = (abs(phi.slope(z)) < 0.05 * largest).mean()
    expected = float(gaussian.saturated_fraction(4.0, phi))
    assert abs(share - expected) <= 4 * sqrt(expected * (1 - expected) / len(z))
    assert gaussian.saturated_fraction(0.0, phi) == (phi.name == "ReLU")
    if phi.name == "ReLU":
        assert (gaussian.saturated_fraction([0.1, 7.0, 1e9], phi) == 0.5).all()


def test_many_images_are_as_few() -> None:
    """Taken in parts, to bound memory."""
    q = np.linspace(0.1, 3, 2 * gaussian.IMAGES + 7)
    one_by_one = [float(gaussian.f_second(x, TANH)) for x in q[::100]]
    np.testing.assert_allclose(gaussian.f_second(q, TANH)[::100], one_by_one, rtol=1e-14)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("Swish",), "theory knows no activation 'Swish'; expected one of ReLU, Identity, Tanh"),
        (("Tanh", 0.0, 1.0, {"leak": 0.1}), "leak: Tanh has no such constant"),
        (("ReLU", 0.0, 1.0, {"leak": "steep"}), "leak is 'steep'; expected a finite number"),
        (("Tanh", float("nan")), "shift is nan"),
        (("Tanh", 0.0, 0), "scale is 0; expected a positive number"),
    ],
)
def test_refusals(values: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Phi(*values)


# Fixed points


def test_the_edge_of_chaos_of_tanh() -> None:
    """Schoenholz et al. (2017): sigma_w^2 = 1.76 at sigma_b^2 = 0.05. Below it c* is 1, above it less; xi_c peaks."""
    point = theory.critical(TANH, 0.05)
    assert point.weight == pytest.approx(1.76, abs=0.005)
    at = theory.propagation(point.weight, TANH, 0.05)
    assert (at.q, at.chi_1) == (pytest.approx(point.q), pytest.approx(1))
    assert at.xi_c == float("inf")
    below, above = theory.propagation(1.3, TANH, 0.05), theory.propagation(2.5, TANH, 0.05)
    assert (below.c, below.chi_1 < 1, above.c < 0.6, above.chi_1 > 1) == (1, True, True, True)
    assert 0 < below.xi_c < 20
    assert 0 < above.xi_c < 20


@pytest.mark.parametrize("gain", [1.3, 2.5, 4.0])
def test_fixed_points_are_where_layers_lead(gain: float) -> None:
    """Two hundred layers of q and of c, and the rate of the last steps: what `propagation` says."""
    found = theory.propagation(gain, TANH, 0.05)
    q, c = [3.0], [0.5]
    for _ in range(200):
        q.append(float(gain * theory.act_second(q[-1], TANH) + 0.05))
        c.append(float(theory.correlation_map(c[-1], found.q, gain, TANH, 0.05)))
    assert q[-1] == pytest.approx(found.q, rel=1e-12)
    assert c[-1] == pytest.approx(found.c, abs=1e-6)
    assert (q[16] - found.q) / (q[15] - found.q) == pytest.approx(found.q_rate, rel=1e-2)
    assert (c[41] - found.c) / (c[40] - found.c) == pytest.approx(found.c_rate, rel=1e-2)
    assert found.xi_q == pytest.approx(-1 / np.log(found.q_rate))


def test_rate_is_the_maps_derivative() -> None:
    for phi in PHIS:
        step = 1e-5
        slope = (gaussian.f_second(1 + step, phi) - gaussian.f_second(1 - step, phi)) / (2 * step)
        assert gaussian.second_rate(1.0, phi) == pytest.approx(float(slope), rel=1e-7)


@pytest.mark.parametrize("phi", PHIS, ids=lambda phi: phi.name)
def test_a_critical_point_is_kept(phi: Phi) -> None:
    """chi_1 = 1 at its q*, which does not repel; softplus has none, since its scale always grows."""
    if phi.name == "Softplus":
        with pytest.raises(ValueError, match="Softplus has no critical point at any sigma_b"):
            theory.critical(phi)
        return
    point = theory.critical(phi)
    assert point.weight * gaussian.slope_second(point.q, phi) == pytest.approx(1, rel=1e-12)
    assert point.weight * theory.act_second(point.q, phi) + point.bias == pytest.approx(point.q, rel=1e-5)
    assert point.weight * gaussian.second_rate(point.q, phi) < 1 + 1e-8
    simple = {"ReLU": 2, "Identity": 1, "Tanh": 1, "Erf": pi / 4, "Softsign": 1, "ELU": 1}
    if phi.name in simple:
        assert (point.weight, point.bias) == (pytest.approx(simple[phi.name], rel=1e-6), 0)


@pytest.mark.parametrize(
    ("gain", "phi", "bias", "q", "chi_1"),
    [
        (2.0, Phi("ReLU"), 0.0, float("nan"), 1.0),  # every q is a fixed point
        (1.0, Phi("ReLU"), 0.0, 0.0, 0.5),
        (3.0, Phi("ReLU"), 0.0, float("inf"), 1.5),
        (1.0, Phi("ReLU"), 0.1, 0.2, 0.5),
        (0.5, TANH, 0.0, 0.0, 0.5),
        (9.0, Phi("Softplus"), 0.0, float("inf"), float("nan")),
    ],
    ids=str,
)
def test_where_q_goes(gain: float, phi: Phi, bias: float, q: float, chi_1: float) -> None:
    found = theory.propagation(gain, phi, bias)
    assert (found.q, found.chi_1) == pytest.approx((q, chi_1), rel=1e-6, nan_ok=True)


def test_gain_auto() -> None:
    assert theory.unit_gain(Phi("ReLU")) == 2
    assert theory.unit_gain(Phi("SELU")) == pytest.approx(1, rel=1e-12)  # which SELU's constants are chosen for
    assert theory.unit_gain(TANH) == pytest.approx(2.5362, abs=1e-4)


def test_gain_auto_needs_a_finite_second_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FUNCTIONS, "Exp", (lambda z: np.exp(z**2 * 1e3), np.exp, lambda: 1.0))
    with pytest.raises(ValueError, match=r"gain is 'auto'; expected an activation with a finite E\[phi\(z\)\^2\]"):
        theory.unit_gain(Phi("Exp"))


@pytest.mark.parametrize("phi", PHIS, ids=lambda phi: phi.name)
def test_moments_of_a_depth_that_overflows(phi: Phi) -> None:
    """They become infinite or NaN, or stay where the activation is bounded; nothing is raised."""
    layers = [theory.DrawnLayer(50, 50, 1.0)] * 400
    found = theory.moments(layers, [50.0, 60.0], phi, np.array([[50.0, 10.0], [10.0, 60.0]]))
    assert len(found) == 400
    assert all(m.act_std >= 0 or np.isnan(m.act_std) for m in found)
