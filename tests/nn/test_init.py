"""Every scheme draws what its formula says, from a stream that is a function of (seed, replica) alone."""

from math import sqrt

import numpy as np
import pytest
import torch
from conftest import ROOT
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from initlab.nn import init, mlp
from initlab.nn.activations import Activation
from initlab.random_streams import stream

CONF = ROOT / "conf" / "init"
VARIANTS = sorted(path.stem for path in CONF.glob("*.yaml"))


def scheme(variant: str) -> init.Scheme:
    return instantiate(_config(variant).weights)


def activation(variant: str) -> Activation:
    return instantiate(_config(variant).activation)


def _config(variant: str) -> DictConfig:
    return OmegaConf.create({"init": OmegaConf.load(CONF / f"{variant}.yaml")}).init


def formula(variant: str, fan_out: int, fan_in: int) -> float:
    """Var W of the design's table; of a variant added since, what its scheme says."""
    return {
        "normal": 1.0,
        "lecun": 1 / fan_in,
        "xavier": 2 / (fan_in + fan_out),
        "kaiming": 2 / fan_in,
        "kaiming_leaky": 2 / ((1 + 0.01**2) * fan_in),
        "kaiming_fan_out": 2 / fan_out,
        "pytorch": 1 / (3 * fan_in),
        "shifted_relu": 2 / fan_in,
        "unit_relu": 1 / fan_in,
        "orthogonal": 2 / max(fan_in, fan_out),
        "lsuv": 1 / max(fan_in, fan_out),
    }.get(variant, scheme(variant).variance(fan_out, fan_in))


def test_the_table_has_every_variant() -> None:
    assert set(VARIANTS) >= {*["normal", "lecun", "xavier", "kaiming", "kaiming_leaky", "kaiming_fan_out", "pytorch"]}
    assert set(VARIANTS) >= {*["shifted_relu", "unit_relu", "orthogonal", "lsuv"]}


@pytest.mark.parametrize("fans", [(50, 784), (300, 40)], ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
def test_sample_variance_is_the_formula(variant: str, fans: tuple[int, int]) -> None:
    """Within 4 standard errors of Var W; of s^2 over n independent draws that is sqrt((kurtosis - 1) / n) Var W."""
    variance = formula(variant, *fans)
    assert scheme(variant).variance(*fans) == pytest.approx(variance, rel=1e-12)
    weights, _ = init.draw(scheme(variant), [fans[1], fans[0]], replicas=20, seed=3)
    w = weights[0].double()
    if variant in ("orthogonal", "lsuv"):  # rows or columns of norm `gain`, exactly
        assert w.square().mean().item() == pytest.approx(variance, rel=1e-5)
        return
    kurtosis = (w**4).mean().item() / w.square().mean().item() ** 2  # 3 of a normal, 9/5 of a uniform
    n = w.numel()
    assert abs(w.square().mean().item() / variance - 1) < 4 * sqrt((kurtosis - 1) / n)
    assert abs(w.mean().item()) < 4 * sqrt(variance / n)


@pytest.mark.parametrize("variant", VARIANTS)
def test_draws_depend_on_seed_and_replica_alone(variant: str) -> None:
    """Bit for bit: whatever R is, whatever was drawn before, and without a touch of global random state."""
    x = torch.randn(784, 300, generator=torch.Generator().manual_seed(0))

    def drawn(replicas: int, seed: int) -> list[torch.Tensor]:
        weights, biases = init.draw(scheme(variant), [784, 50, 10], replicas=replicas, seed=seed)
        scheme(variant).calibrate(weights, x, Activation())
        return weights + biases

    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()
    many, few, other = drawn(6, seed=0), drawn(2, seed=0), drawn(1, seed=1)
    assert all(torch.equal(six[:2], two) for six, two in zip(many, few, strict=True))
    assert not torch.equal(many[0][0], many[0][1])
    assert not torch.equal(many[0][0], other[0][0])
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert repr(np.random.get_state()) == repr(numpy_state)


@pytest.mark.parametrize("variant", VARIANTS)
def test_bias_variance_is_the_formula(variant: str) -> None:
    """As `bias_variance` says, within 4 standard errors; of s^2 over n uniform draws that is sqrt(0.8 / n) of it."""
    biases = init.draw(scheme(variant), [30, 2000], replicas=10, seed=0)[1][0].double()
    expected = {"pytorch": 1 / 90}.get(variant, scheme(variant).bias_variance(2000, 30))
    assert scheme(variant).bias_variance(2000, 30) == pytest.approx(expected)
    assert abs(biases.square().mean().item() - expected) <= 4 * sqrt(0.8 / biases.numel()) * expected


def test_replicas_are_uncorrelated() -> None:
    """Correlations of n pairs of independent draws have standard error 1 / sqrt(n)."""
    w = init.draw(scheme("kaiming"), [784, 50], replicas=8, seed=0)[0][0].flatten(1).numpy()
    correlation = np.corrcoef(w)[np.triu_indices(8, 1)]
    assert np.abs(correlation).max() < 4.5 / sqrt(w.shape[1])  # the largest of 28


def test_the_order_of_the_data_is_another_stream() -> None:
    replica, epoch = stream(0, "replica", 3), stream(0, "epoch", 3)
    assert replica.random() != epoch.random()


@pytest.mark.parametrize(("fan_out", "fan_in"), [(50, 784), (784, 50), (64, 64)])
def test_orthogonal(fan_out: int, fan_in: int) -> None:
    """W W^T = gain^2 I, or W^T W where there are more rows; to float32's precision."""
    W = torch.from_numpy(init.Orthogonal(gain=sqrt(2)).weight(fan_out, fan_in, generator=stream(0, "replica", 0)))
    product = (W @ W.T if fan_out <= fan_in else W.T @ W).double()
    torch.testing.assert_close(product, 2 * torch.eye(len(product), dtype=torch.float64), rtol=0, atol=1e-5)


def test_orthogonal_is_uniform() -> None:
    """Among 2 x 2 orthogonal matrices tr Q has mean 0 and variance 1; QR without its sign fix is far from it."""
    generator = stream(0, "replica", 0)
    traces = np.array([np.trace(init.Orthogonal().weight(2, 2, generator=generator)) for _ in range(4000)])
    assert abs(traces.mean()) < 4 / sqrt(4000)
    assert abs(traces.var() - 1) < 4 * sqrt(2 / 4000)  # its kurtosis is 3: rotations have 1.5 / 1^2 x 2, reflections 0


def test_lsuv_gives_every_layer_unit_variance() -> None:
    """On the images it was calibrated on, for every replica, to float32's precision."""
    lsuv = init.LSUV(images=200)
    weights, biases = init.draw(lsuv, [30, 20, 20, 20, 10], replicas=4, seed=0)
    x = torch.randn(30, 500, generator=torch.Generator().manual_seed(0)) * 3
    lsuv.calibrate(weights, x, Activation())
    for z in mlp.forward(x[:, :200], weights, biases, Activation()).z:
        torch.testing.assert_close(z.std((1, 2)), torch.ones(4), rtol=1e-5, atol=0)


def test_lsuv_refuses_a_silent_layer() -> None:
    """Images of zeros: every pre-activation is 0, and there is no scale to divide by."""
    weights, _ = init.draw(init.LSUV(), [5, 4, 3], replicas=1, seed=0)
    with pytest.raises(ValueError, match="LSUV: layer 1 is silent"):
        init.LSUV().calibrate(weights, torch.zeros(5, 10), Activation())


def test_kaiming_keeps_the_second_moment() -> None:
    """He's Var W = 2 / fan_in keeps q_l = E[z_l^2] through ReLU layers, and 1 / fan_in halves it.

    ln q_l is a walk: a layer of width n adds about sqrt(5 / n) of spread, so 8 layers of 1,000 with 10 replicas have
    a standard error of sqrt(8 * 5 / 1000 / 10) = 0.063.
    """
    x = torch.randn(1000, 64, generator=torch.Generator().manual_seed(0))
    for variant, rate in [("kaiming", 1.0), ("lecun", 0.5)]:
        weights, biases = init.draw(scheme(variant), [1000] * 9, replicas=10, seed=0)
        trace = mlp.forward(x, weights, biases, Activation())
        first, last = (trace.z[layer].square().mean((1, 2)).log().mean() for layer in (0, -1))
        assert abs((last - first).item() - 7 * np.log(rate)) < 4 * 0.063


def test_kaimings_gain_is_a_free_number() -> None:
    """The same draw, by another number; 2 is the scheme's own."""
    assert init.kaiming(gain=2) == init.kaiming() == init.VarianceScaling(2.0, "fan_in")
    assert init.kaiming(0.5, "fan_out", gain=3).variance(6, 2) == 3 / 1.25 / 6


def test_torch_fan_out_on_the_lessons_tensor_is_our_kaiming() -> None:
    """torch reads a weight as (fan_out, fan_in): on the lesson's (784, 50), its fan_out is 784."""
    w = torch.empty(784, 50)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        std = nn.init.kaiming_normal_(w, mode="fan_out").std().item()
    error = 4 / sqrt(2 * w.numel())  # of a standard deviation, relative
    assert abs(std / sqrt(scheme("kaiming").variance(50, 784)) - 1) < error
    assert abs(std / sqrt(2 / 50) - 1) > 0.5


def test_pytorch_is_what_linear_does() -> None:
    """The same bounds, reached as closely by as many draws, for weights and biases of torch.nn.Linear(784, 50)."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = nn.Linear(784, 50)
    (weights,), (biases,) = init.draw(init.TorchLinear(), [784, 50], replicas=1, seed=0)
    for ours, other in [(weights, theirs.weight), (biases, theirs.bias)]:
        bound = 1 / sqrt(784)
        assert ours.abs().max() <= bound
        assert other.abs().max() <= bound
        # Var U(-c, c) = c^2 / 3; the standard error of a sample variance is sqrt(0.8 / n) of it.
        assert abs(ours.square().mean().item() / (bound**2 / 3) - 1) < 4 * sqrt(0.8 / ours.numel())
        assert abs(other.square().mean().item() / (bound**2 / 3) - 1) < 4 * sqrt(0.8 / other.numel())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: init.VarianceScaling(scale=-1), "scale is -1; expected a positive number"),
        (lambda: init.VarianceScaling(1, mode="sideways"), "mode is 'sideways'; expected one of one, fan_in"),
        (lambda: init.VarianceScaling(1, distribution="cauchy"), "distribution is 'cauchy'"),
        (lambda: init.kaiming(leak=float("inf")), "leak is inf"),
        (lambda: init.kaiming(gain=0), "gain is 0; expected a positive number"),
        (lambda: init.kaiming(leak=1e200), r"leak is 1e\+200; expected a finite number, up to 1e\+18"),
        (lambda: init.Orthogonal(gain=10**400), "gain is 10{400}; expected a positive number, up to"),
        (lambda: init.Orthogonal(gain=0), "gain is 0"),
        (lambda: init.LSUV(images=1), "images is 1; expected a whole number of at least 2"),
        (lambda: init.draw(init.TorchLinear(), [3, 0], replicas=1, seed=0), "width is 0"),
        (lambda: init.draw(init.TorchLinear(), [3, 2], replicas=0, seed=0), "replicas is 0"),
        (lambda: init.draw(init.TorchLinear(), [3, 2], replicas=1, seed=-1), "seed is -1"),
        (lambda: init.draw(init.TorchLinear(), [3, 2], replicas=True, seed=0), "replicas is True"),
    ],
)
def test_refusals_name_the_value(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
