"""Every scheme with every activation: its configuration, its draw against theory, and a step of training."""

from functools import cache
from math import sqrt

import pytest
import torch
from conftest import ROOT
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from test_init import EQUAL, VARIANTS, config

from initlab.nn import init, layer_stats, mlp, theory
from initlab.nn.losses import CrossEntropy
from initlab.theory_table import describe

ACTIVATIONS = sorted(path.stem for path in (ROOT / "conf" / "activation").glob("*.yaml"))
WIDTHS = [64, 128, 96, 10]
REPLICAS = 12


@cache
def images() -> tuple[torch.Tensor, torch.Tensor]:
    """x (64, B), of mean square 1 but of different norms, and correlated; y (B,)."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 24, generator=generator) + 0.7 * torch.randn(64, 1, generator=generator)
    x = x * torch.linspace(0.7, 1.3, 24)
    return x / x.square().mean().sqrt(), torch.randint(0, 10, (24,), generator=generator)


def made(variant: str, activation: str) -> tuple[init.Scheme, mlp.Activation]:
    """Of the two files; a sparse unit has more connections than the paper's, so that their sum is nearly normal."""
    phi = instantiate(OmegaConf.load(ROOT / "conf" / "activation" / f"{activation}.yaml"))
    weights = OmegaConf.load(ROOT / "conf" / "init" / f"{variant}.yaml").weights
    if variant == "sparse":
        weights.connections = 48
    return instantiate(weights).for_activation(phi), phi


def test_an_activation_that_is_not_there_lists_those_that_are() -> None:
    with pytest.raises(HydraException, match="Could not find 'activation/swish'") as refused:
        config("activation=swish")
    assert set(ACTIVATIONS) <= set(str(refused.value).split())


@pytest.mark.parametrize("variant", ["kaiming", "kaiming_leaky", "unit_relu"])
def test_an_activation_that_is_chosen_is_taken(variant: str) -> None:
    """Whichever the scheme's file names; without a choice it is that one, or ReLU."""
    own = {"kaiming": "relu", "kaiming_leaky": "leaky_relu"}.get(variant, variant)
    folder = ROOT / "conf" / "activation"
    for words, name in [([], own), *(([f"activation={name}"], name) for name in ACTIVATIONS)]:
        assert config(f"init={variant}", *words).activation == OmegaConf.load(folder / f"{name}.yaml")


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_draws_what_theory_expects_and_trains(variant: str, activation: str) -> None:
    """Step 0 within 4 standard errors over draws, and 5 % for a finite width; then a small step lowers the loss."""
    if (variant, activation) == ("critical", "softplus"):
        with pytest.raises(ValueError, match="Softplus has no critical point"):
            made(variant, activation)
        return
    scheme, phi = made(variant, activation)
    x, y = images()
    weights, biases = init.draw(scheme, WIDTHS, replicas=REPLICAS, seed=1)
    scheme.calibrate(weights, x, phi)
    loss = CrossEntropy(10)
    losses, gradients, trace = mlp.loss_and_gradients(x, y, weights, biases, phi, loss)
    assert all(z.isfinite().all() for z in trace.z)
    if scheme.zero_mean:
        products = x.double().mT @ x.double()
        layers = init.drawn_layers(scheme, WIDTHS)
        expected = theory.moments(layers, products.diagonal(), theory.Phi.of(phi), products)
        for z, a, layer in zip(trace.z, trace.a[1:-1], expected, strict=False):
            pairs = [
                (layer.preact_second, z.double().square().mean((1, 2))),
                (layer.act_second, a.double().square().mean((1, 2))),
                (layer.saturated_fraction, phi.saturated(z).double().mean((1, 2))),
            ]
            if variant not in EQUAL:
                pairs.append((layer.act_cosine, layer_stats.mean_cosine(a).double()))
            for value, measured in pairs:
                error = 4 * measured.std().item() / sqrt(REPLICAS)
                assert abs(measured.mean().item() - value) <= error + 0.05 * abs(value) + 0.01 * (value < 1)
    size = max(gradient.W.abs().max().item() for gradient in gradients)
    rate = 1e-3 / max(size, 1e-3)
    after = mlp.sgd_step(x, y, weights, biases, phi, loss, lr=rate)
    torch.testing.assert_close(after, losses)  # the loss before the step
    stepped, _, _ = mlp.loss_and_gradients(x, y, weights, biases, phi, loss)
    assert stepped.isfinite().all()
    assert (stepped <= losses).all()


def test_the_command_describes_each_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """One scheme of each activation, and one activation of each scheme."""
    monkeypatch.chdir(ROOT)
    for words in [*([f"activation={name}"] for name in ACTIVATIONS), *([f"init={name}"] for name in VARIANTS)]:
        text = describe([*words, "model=deep"])
        assert "784-50-50" in text
        assert len(text.splitlines()) > 13 or words == ["init=constant"]
