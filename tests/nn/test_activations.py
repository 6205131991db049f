"""Each activation against its formula, autograd, finite differences and theory's NumPy form, in float64 and far out."""

from collections.abc import Callable
from math import erf, exp, pi, sqrt

import numpy as np
import pytest
import torch
from conftest import ROOT
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from initlab.nn import activations, gaussian
from initlab.nn.activations import (
    ELU,
    GELU,
    SELU,
    Activation,
    Erf,
    Identity,
    ReLU,
    Sigmoid,
    SiLU,
    Softplus,
    Softsign,
    Tanh,
)

FILES = {path.stem: path for path in sorted((ROOT / "conf" / "activation").glob("*.yaml"))}
PHIS: dict[str, Activation] = {name: instantiate(OmegaConf.load(path)) for name, path in FILES.items()} | {
    "leaky_shifted": ReLU(leak=-0.3, shift=-0.2, scale=1.7),
    "tanh_shifted": Tanh(shift=0.4, scale=2.5),
    "elu_2": ELU(alpha=2.0, shift=-0.1),
    "gelu_scaled": GELU(scale=0.3),
}
SMOOTH = Identity, Tanh, Sigmoid, Softplus, GELU, SiLU, Erf  # at 0, where others, or their slopes, have a kink


def s(z: float) -> float:
    return 1 / (1 + exp(-z))


# The plain functions, once more, and their values at the kink from the left.
FORMULAS: dict[type[Activation], tuple[Callable[[float], float], float]] = {
    ReLU: (lambda z: max(z, 0.0), 0.0),
    Identity: (lambda z: z, 1.0),
    Tanh: (lambda z: 2 * s(2 * z) - 1, 1.0),
    Sigmoid: (s, 0.25),
    Softsign: (lambda z: z / (1 + abs(z)), 1.0),
    Softplus: (lambda z: np.logaddexp(0, z), 0.5),
    ELU: (lambda z: z if z > 0 else exp(z) - 1, 1.0),
    SELU: (lambda z: 1.0507009873554805 * (z if z > 0 else 1.6732632423543772 * (exp(z) - 1)), 1.7580993408473766),
    GELU: (lambda z: z * (1 + erf(z / sqrt(2))) / 2, 0.5),
    SiLU: (lambda z: z * s(z), 0.5),
    Erf: (erf, 2 / sqrt(pi)),
}
Z = torch.arange(-60, 61, dtype=torch.float64) / 10  # 0 is one of them


def test_every_class_has_a_file_and_a_formula() -> None:
    classes = {cls for cls in Activation.__subclasses__() if cls.__module__ == Activation.__module__}
    assert {type(phi) for phi in PHIS.values()} == classes == set(FORMULAS)
    assert {cls.__name__ for cls in classes} == set(gaussian.FUNCTIONS)


@pytest.mark.parametrize("cls", FORMULAS)
def test_formula(cls: type[Activation]) -> None:
    f, kink = FORMULAS[cls]
    expected = torch.tensor([f(z) for z in Z.tolist()], dtype=torch.float64)
    torch.testing.assert_close(cls()(Z), expected, rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(cls(shift=0.3, scale=2.0)(Z), 2 * (expected - 0.3), rtol=1e-12, atol=1e-14)
    assert cls().backward(
        torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    ).item() == pytest.approx(kink)


@pytest.mark.parametrize("name", PHIS)
def test_backward_equals_autograd(name: str) -> None:
    """At the kink as well: torch takes the slope of the left."""
    z = Z.clone().requires_grad_()
    grad = torch.randn(Z.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (expected,) = torch.autograd.grad(PHIS[name](z), z, grad)
    if (
        PHIS[name].constants.get("leak", 0) or type(PHIS[name]) is ELU
    ):  # written as a sum, whose halves each have 0 at 0
        expected[Z == 0] = PHIS[name].backward(Z, grad)[Z == 0]
    torch.testing.assert_close(PHIS[name].backward(Z, grad), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", PHIS)
def test_backward_equals_finite_differences(name: str) -> None:
    """Central ones, off by h^2 / 6 times the third derivative; not across a kink."""
    phi, h = PHIS[name], 1e-5
    z = Z if isinstance(phi, SMOOTH) else Z[Z.abs() > h]
    torch.testing.assert_close(
        phi.backward(z, torch.ones_like(z)), (phi(z + h) - phi(z - h)) / (2 * h), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", PHIS)
def test_far_tails_are_finite_and_flat_or_straight(name: str, dtype: torch.dtype) -> None:
    """At |z| = 100: no NaN, and the slope is that of an asymptote."""
    phi = PHIS[name]
    z = torch.tensor([-100.0, 100.0], dtype=dtype)
    a, slope = phi(z), phi.backward(z, torch.ones_like(z)) / phi.scale
    assert a.isfinite().all()
    left, right = slope.tolist()
    cls = type(phi)
    lambda_ = SELU.LAMBDA if cls is SELU else 1
    rises = cls in (ReLU, Identity, Softplus, ELU, SELU, GELU, SiLU)
    assert right == pytest.approx(lambda_ if rises else 0, abs=1e-4)
    assert left == pytest.approx(1 if cls is Identity else phi.constants.get("leak", 0), abs=1e-4)


@pytest.mark.parametrize("name", PHIS)
def test_theorys_numpy_form_is_the_same(name: str) -> None:
    phi, twin = PHIS[name], gaussian.Phi.of(PHIS[name])
    z = torch.cat([Z, torch.tensor([-100.0, -30.0, 30.0, 100.0], dtype=torch.float64)])
    np.testing.assert_allclose(twin.scale * (twin.f(z.numpy()) - twin.shift), phi(z).numpy(), rtol=1e-13, atol=1e-15)
    slope = phi.backward(z, torch.ones_like(z)).numpy()
    np.testing.assert_allclose(twin.scale * twin.slope(z.numpy()), slope, rtol=1e-12, atol=1e-14)
    large = np.linspace(-9, 9, 201_001)  # where erf is SciPy's
    np.testing.assert_allclose(twin.f(large[::1000]), twin.f(large)[::1000], rtol=1e-12, atol=1e-15)
    if name in FILES:
        assert gaussian.Phi.of(OmegaConf.to_container(OmegaConf.load(FILES[name]))) == twin


@pytest.mark.parametrize("name", PHIS)
def test_largest_slope_and_saturation(name: str) -> None:
    """On a fine grid; saturated is where the slope is below a twentieth of it. Of ReLU that is z <= 0."""
    phi = PHIS[name]
    z = torch.linspace(-30, 30, 600_001, dtype=torch.float64)
    slope = phi.backward(z, torch.ones_like(z)).abs() / phi.scale
    assert slope.max().item() == pytest.approx(phi.largest_slope, rel=1e-8)
    assert torch.equal(phi.saturated(z), slope < 0.05 * phi.largest_slope)
    if name in ("relu", "leaky_relu", "shifted_relu", "unit_relu"):
        assert torch.equal(phi.saturated(z), z <= 0)
    inside = np.zeros(len(z), dtype=bool)
    for low, high in gaussian.Phi.of(phi).saturated_intervals:
        inside |= (z.numpy() > low) & (z.numpy() < high)
    assert (inside != phi.saturated(z).numpy()).sum() <= 6  # of 600,001: on an edge


def per_replica(phi: Callable[..., Activation], **constants: list[float]) -> tuple[Activation, list[Activation]]:
    tensors = {name: torch.tensor(values).view(-1, 1, 1) for name, values in constants.items()}
    singles = [dict(zip(constants, values, strict=True)) for values in zip(*constants.values(), strict=True)]
    return phi(**tensors), [phi(**single) for single in singles]


@pytest.mark.parametrize(
    ("cls", "constants"),
    [
        (ReLU, {"leak": [0.0, 0.2], "shift": [0.0, 0.5], "scale": [1.0, 2.0]}),
        (ELU, {"alpha": [1.0, 0.3], "shift": [0.1, 0.0]}),
        (Tanh, {"shift": [0.1, 0.0], "scale": [0.5, 3.0]}),
        (SiLU, {"scale": [0.5, 3.0]}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_constants_of_each_replica(cls: type[Activation], constants: dict[str, list[float]]) -> None:
    """Tensors (R, 1, 1) are the same as R activations of numbers, and are moved and sliced by name."""
    together, singles = per_replica(cls, **constants)
    z = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    for r, single in enumerate(singles):
        torch.testing.assert_close(together(z)[r], single(z)[r])
        torch.testing.assert_close(together.backward(z, z)[r], single.backward(z, z)[r])
        assert torch.equal(together.saturated(z)[r], single.saturated(z)[r])
    second = together.map_constants(lambda constant: constant[1:])
    assert type(second) is cls
    assert {
        name: float(value) for name, value in second.constants.items() if isinstance(value, Tensor)
    } == pytest.approx({name: values[1] for name, values in constants.items()})
    assert singles[0].map_constants(lambda constant: constant[1:]) == singles[0]
    assert together.to(torch.device("cpu")).constants.keys() == together.constants.keys()


@pytest.mark.parametrize("cls", FORMULAS)
def test_a_shift_that_leaves_nothing(cls: type[Activation]) -> None:
    """In float32, tanh(z) - 1e9 is the same number for every z."""
    with pytest.raises(
        ValueError, match=r"shift is 1000000000000.0; expected a smaller one: f\(z\) - shift is constant in float32"
    ):
        cls(shift=1e12)
    assert activations.LARGEST == 1e18
