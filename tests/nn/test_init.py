"""Every scheme draws what its formula says, from a stream that is a function of (seed, replica) alone."""

from functools import cache
from math import sqrt

import numpy as np
import pytest
import torch
from conftest import ROOT
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig
from scipy import stats
from torch import nn

from initlab.nn import activations, init, mlp, theory
from initlab.nn.activations import Activation, ReLU
from initlab.nn.losses import CrossEntropy
from initlab.random_streams import stream

CONF = ROOT / "conf" / "init"
VARIANTS = sorted(path.stem for path in CONF.glob("*.yaml"))


EQUAL = ["zeros", "constant"]  # variants that draw nothing


def scheme(variant: str) -> init.Scheme:
    return instantiate(config(f"init={variant}").init.weights).for_activation(activation(variant))


def activation(variant: str) -> Activation:
    return instantiate(config(f"init={variant}").activation)


@cache
def config(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", list(overrides))


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
        "standard": 1 / (3 * fan_in),
        "shifted_relu": 2 / fan_in,
        "unit_relu": 1 / fan_in,
        "orthogonal": 2 / max(fan_in, fan_out),
        "lsuv": 1 / max(fan_in, fan_out),
        "gaussian": 1.3**2 / fan_in,
        "critical": 2 / fan_in,  # of ReLU
        "truncated_normal": 2 / fan_in,
        "sparse": 2 / fan_in,
        "zeros": 0.0,
        "constant": 0.0,
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
    if variant in EQUAL:
        assert (w == w[0, 0, 0]).all()
        return
    if variant in ("orthogonal", "lsuv"):  # rows or columns of norm `gain`, exactly
        assert w.square().mean().item() == pytest.approx(variance, rel=1e-5)
        return
    kurtosis = (w**4).mean().item() / w.square().mean().item() ** 2  # 3 of a normal, 9/5 of a uniform
    n = w.numel()
    assert abs(w.square().mean().item() / variance - 1) < 4 * sqrt((kurtosis - 1) / n)
    assert abs(w.mean().item()) < 4 * sqrt(variance / n)


@pytest.mark.parametrize("variant", [variant for variant in VARIANTS if variant not in EQUAL])
def test_draws_depend_on_seed_and_replica_alone(variant: str) -> None:
    """Bit for bit: whatever R is, whatever was drawn before, and without a touch of global random state."""
    x = torch.randn(784, 300, generator=torch.Generator().manual_seed(0))

    def drawn(replicas: int, seed: int) -> list[torch.Tensor]:
        weights, biases = init.draw(scheme(variant), [784, 50, 10], replicas=replicas, seed=seed)
        scheme(variant).calibrate(weights, x, ReLU())
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
    """As `bias_variance` says, within 4 standard errors; of s^2 over n normal draws that is sqrt(2 / n) of it."""
    biases = init.draw(scheme(variant), [30, 2000], replicas=10, seed=0)[1][0].double()
    expected = {"pytorch": 1 / 90, "gaussian": 0.3**2}.get(variant, scheme(variant).bias_variance(2000, 30))
    assert scheme(variant).bias_variance(2000, 30) == pytest.approx(expected)
    assert (
        abs(biases.square().mean().item() - expected)
        <= 4 * sqrt((0.8 if variant == "pytorch" else 2) / biases.numel()) * expected
    )


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
    lsuv.calibrate(weights, x, ReLU())
    for z in mlp.forward(x[:, :200], weights, biases, ReLU()).z:
        torch.testing.assert_close(z.std((1, 2)), torch.ones(4), rtol=1e-5, atol=0)


def test_lsuv_refuses_a_silent_layer() -> None:
    """Images of zeros: every pre-activation is 0, and there is no scale to divide by."""
    weights, _ = init.draw(init.LSUV(), [5, 4, 3], replicas=1, seed=0)
    with pytest.raises(ValueError, match="LSUV: layer 1 is silent"):
        init.LSUV().calibrate(weights, torch.zeros(5, 10), ReLU())


def test_kaiming_keeps_the_second_moment() -> None:
    """He's Var W = 2 / fan_in keeps q_l = E[z_l^2] through ReLU layers, and 1 / fan_in halves it.

    ln q_l is a walk: a layer of width n adds about sqrt(5 / n) of spread, so 8 layers of 1,000 with 10 replicas have
    a standard error of sqrt(8 * 5 / 1000 / 10) = 0.063.
    """
    x = torch.randn(1000, 64, generator=torch.Generator().manual_seed(0))
    for variant, rate in [("kaiming", 1.0), ("lecun", 0.5)]:
        weights, biases = init.draw(scheme(variant), [1000] * 9, replicas=10, seed=0)
        trace = mlp.forward(x, weights, biases, ReLU())
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


def ours(scheme: init.Scheme, fan_out: int, fan_in: int) -> np.ndarray:
    return scheme.weight(fan_out, fan_in, generator=stream(5, "replica", 0)).astype(float).ravel()


def theirs(fill, fan_out: int, fan_in: int, **options: float) -> np.ndarray:
    """What a function of torch.nn.init draws into a weight (fan_out, fan_in)."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return fill(torch.empty(fan_out, fan_in), **options).double().numpy().ravel()


FANS = (300, 200)
TORCHS: dict[str, tuple[init.Scheme, np.ndarray]] = {
    "normal": (init.VarianceScaling(4, "one"), theirs(nn.init.normal_, *FANS, std=2)),
    "xavier_uniform": (
        init.VarianceScaling((5 / 3) ** 2, "fan_avg", "uniform"),
        theirs(nn.init.xavier_uniform_, *FANS, gain=5 / 3),
    ),
    "xavier_normal": (init.VarianceScaling(1, "fan_avg"), theirs(nn.init.xavier_normal_, *FANS)),
    "kaiming_normal": (init.kaiming(), theirs(nn.init.kaiming_normal_, *FANS, nonlinearity="relu")),
    "kaiming_uniform": (
        init.VarianceScaling(2 / (1 + 0.2**2), "fan_out", "uniform"),
        theirs(nn.init.kaiming_uniform_, *FANS, a=0.2, mode="fan_out"),
    ),
    "trunc_normal": (  # torch's std is that of the normal before it is cut
        init.VarianceScaling(1, "one", "truncated_normal"),
        theirs(nn.init.trunc_normal_, *FANS, std=(s := 1 / 0.8796256610342398), a=-2 * s, b=2 * s),
    ),
    "orthogonal": (init.Orthogonal(1.5), theirs(nn.init.orthogonal_, *FANS, gain=1.5)),
    "constant": (init.Constant(0.3), theirs(nn.init.constant_, *FANS, val=0.3)),
    "zeros": (init.Constant(), theirs(nn.init.zeros_, *FANS)),
    "sparse": (  # of the transpose: torch makes columns sparse, and these are units here
        init.Sparse(gain=0.25 * 20, connections=20),
        theirs(nn.init.sparse_, FANS[1], FANS[0], sparsity=1 - 20 / FANS[1], std=0.5),
    ),
}


@pytest.mark.parametrize("name", TORCHS)
def test_the_same_distribution_as_torchs(name: str) -> None:
    """Mean, variance and fourth moment within 4 standard errors of the difference, and Kolmogorov-Smirnov."""
    made, b = TORCHS[name]
    a = ours(made, *FANS)
    for power in (1, 2, 4):
        error = np.sqrt((a**power).var() / a.size + (b**power).var() / b.size)
        assert abs((a**power).mean() - (b**power).mean()) <= 4 * error + 1e-12
    if name not in EQUAL:
        assert stats.ks_2samp(a, b).pvalue > 1e-3
    if name == "sparse":
        assert ((a.reshape(FANS) != 0).sum(1) == 20).all()
        assert ((b.reshape(FANS[::-1]) != 0).sum(0) == 20).all()


def test_a_sparse_unit_has_no_more_connections_than_inputs() -> None:
    assert (init.Sparse(connections=15).weight(4, 3, generator=stream(0, "replica", 0)) != 0).all()


@pytest.mark.parametrize("gain", [0.3, 1.0, 2.5])
@pytest.mark.parametrize(
    "make", [init.VarianceScaling, init.kaiming, init.TorchLinear, init.Sparse], ids=lambda make: make.__name__
)
def test_gain_is_fan_in_times_the_variance(make, gain: float) -> None:
    made = make(gain=gain)
    assert made.variance(70, 30) == pytest.approx(gain / 30)
    w = ours(made, 900, 100)
    assert abs(100 * w.var() / gain - 1) < 4 * sqrt(stats.kurtosis(w, fisher=False) / w.size)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if "gain" in config(f"init={v}").init.weights])
def test_gain_auto_keeps_q_at_1(variant: str) -> None:
    """1 / E[tanh(z)^2], z ~ N(0, 1); of its weights, not their variance, for orthogonal ones."""
    weights = config(f"init={variant}", "activation=tanh", "init.weights.gain=auto").init.weights
    made = instantiate(weights).for_activation(activations.Tanh())
    gain = theory.unit_gain(theory.Phi("Tanh"))
    n = {"normal": 1, "kaiming_fan_out": 20}.get(variant, 20)
    assert made.variance(20, 20) == pytest.approx(gain / n)


# torch's gains, of the weights, and 1 / sqrt(E[phi(z)^2]) beside them.
GAINS = {"ReLU": 2**0.5, "Identity": 1.0, "Tanh": 5 / 3, "Sigmoid": 1.0, "SELU": 3 / 4}


@pytest.mark.parametrize("name", GAINS)
def test_torchs_gain_beside_auto(name: str) -> None:
    """They agree for the ReLU family. 5/3 and 3/4 are chosen by trial; 1 for sigmoid says nothing of its scale."""
    torchs = nn.init.calculate_gain({"Identity": "linear"}.get(name, name.lower()))
    assert torchs == pytest.approx(GAINS[name])
    auto = sqrt(theory.unit_gain(theory.Phi(name)))
    if name in ("ReLU", "Identity"):
        assert auto == pytest.approx(torchs)
    else:
        assert auto == pytest.approx({"Tanh": 1.5925, "Sigmoid": 1.8462, "SELU": 1.0}[name], abs=1e-4)


def test_the_activations_leak() -> None:
    """He's 2 / (1 + leak^2), by a leak of `auto` or a gain of `auto`, and once if both are."""
    leaky, tanh = activations.ReLU(leak=0.3), activations.Tanh()
    for made in (init.kaiming("auto"), init.kaiming(gain="auto"), init.kaiming("auto", gain="auto"), init.kaiming(0.3)):
        assert made.for_activation(leaky).variance(5, 1) == pytest.approx(2 / 1.09)
    assert init.kaiming("auto").for_activation(tanh) == init.kaiming()
    with pytest.raises(ValueError, match="leak is 'auto'; expected a number"):
        init.kaiming("auto").variance(5, 1)


def test_critical_is_the_edge_of_chaos() -> None:
    """Kaiming's for ReLU, to the bit; Schoenholz et al.'s 1.76 for tanh with sigma_b^2 = 0.05."""
    relu = init.Critical().for_activation(activations.ReLU())
    drawn, kaimings = (made.weight(5, 784, generator=stream(0, "replica", 0)) for made in (relu, init.kaiming()))
    assert np.array_equal(drawn, kaimings)
    tanh = init.Critical(sigma_b=sqrt(0.05)).for_activation(activations.Tanh())
    assert tanh.sigma_w**2 == pytest.approx(1.76, abs=0.005)
    assert tanh.sigma_b == pytest.approx(sqrt(0.05))


def test_biases_do_not_change_the_weights() -> None:
    """Gaussian schemes of any sigma_b, and Kaiming's, scale one another's draws."""
    with_biases, without = (init.draw(init.Gaussian(1.5, b), [9, 8, 7], replicas=2, seed=0) for b in (0.5, 0.0))
    assert all(torch.equal(W, V) for W, V in zip(with_biases[0], without[0], strict=True))
    assert all((b != 0).all() and (c == 0).all() for b, c in zip(with_biases[1], without[1], strict=True))


@pytest.mark.parametrize("value", [0.0, 0.02])
def test_equal_weights_stay_equal(value: float) -> None:
    """After steps of gradient descent, all units of a hidden layer still have the same weights."""
    weights, biases = init.draw(init.Constant(value), [12, 6, 5, 3], replicas=2, seed=0)
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(12, 20, generator=generator), torch.randint(0, 3, (20,), generator=generator)
    before = [W.clone() for W in weights]
    for _ in range(5):
        mlp.sgd_step(x, y, weights, biases, activations.Softplus(), CrossEntropy(3), lr=0.5)
    assert all((b != W).any() for W, b in zip(weights[1:], before[1:], strict=True))
    for W, b in zip(weights[:-1], biases[:-1], strict=True):
        torch.testing.assert_close(W, W[:, :1].expand_as(W), rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(b, b[:, :1].expand_as(b), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("made", "phi", "message"),
    [
        (init.Critical(sigma_b=0.2), activations.ReLU(), "ReLU has no critical point there, the nearest is sigma_b=0"),
        (init.Critical(sigma_b=0.0), activations.GELU(), "the nearest is sigma_b=0.4185 with sigma_w=1.408"),
        (init.Critical(), activations.Softplus(), "Softplus has no critical point at any sigma_b"),
        (init.kaiming(gain="auto"), activations.ReLU(leak=torch.zeros(2, 1, 1)), "leak is tensor"),
    ],
    ids=["relu", "gelu", "softplus", "tensor"],
)
def test_what_an_activation_has_no_value_for(made: init.Scheme, phi: Activation, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made.for_activation(phi)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: init.VarianceScaling(gain=-1), "gain is -1; expected a positive number"),
        (lambda: init.VarianceScaling(1, mode="sideways"), "mode is 'sideways'; expected one of one, fan_in"),
        (lambda: init.VarianceScaling(1, distribution="cauchy"), "distribution is 'cauchy'"),
        (lambda: init.kaiming(leak=float("inf")), "leak is inf"),
        (lambda: init.kaiming(gain=0), "gain is 0; expected a positive number"),
        (lambda: init.kaiming(leak=1e200), r"leak is 1e\+200; expected a finite number, up to 1e\+18"),
        (lambda: init.Orthogonal(gain=10**400), "gain is 10{400}; expected a positive number, up to"),
        (lambda: init.Orthogonal(gain=0), "gain is 0"),
        (lambda: init.TorchLinear(gain="much"), "gain is 'much'; expected a positive number or auto"),
        (lambda: init.Gaussian(0), "sigma_w is 0; expected a positive number"),
        (lambda: init.Gaussian(1, -0.1), "sigma_b is -0.1; expected a number of at least 0"),
        (lambda: init.Critical(sigma_b="some"), "sigma_b is 'some'; expected a number of at least 0, or auto"),
        (lambda: init.Critical(sigma_b=-1), "sigma_b is -1; expected a number of at least 0"),
        (lambda: init.Constant(float("nan")), "value is nan; expected a finite number"),
        (lambda: init.Sparse(connections=0), "connections is 0; expected a whole number of at least 1"),
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
