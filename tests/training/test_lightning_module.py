"""The Lightning module and data module: a step is W - lr gW, runs repeat to the bit, statistics disturb nothing."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import sqrt
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from torch import optim
from torch.utils.data import DataLoader

from initlab.data import datamodule
from initlab.data.datamodule import DataModule
from initlab.data.normalized_files import load
from initlab.nn import init, mlp
from initlab.nn.activations import Activation, ReLU
from initlab.nn.losses import CrossEntropy
from initlab.random_streams import stream
from initlab.training.callbacks import UNITS, LayerStatistics, RecordMetrics
from initlab.training.fit import expected_statistics, matmul_precision, weights_sha256
from initlab.training.lightning_module import Network
from initlab.training.replica_group import ReplicaGroup
from initlab.training.validation import PRECISIONS
from initlab.workers import Workers

SGD = partial(optim.SGD, lr=0.05)


def network(kind: type[Network] = Network, **changes) -> Network:
    values = {
        "hidden": [50],
        "replicas": 2,
        "seed": 0,
        "scheme": init.kaiming(),
        "activation": ReLU(),
        "loss": CrossEntropy(10),
        "optimizer": SGD,
    }
    return kind(**values | changes)


Recorded = dict[int, dict[str, np.ndarray]]


class Fitted(NamedTuple):
    """data: what it was trained on.  measurements: {step: {metric: value of each replica (R,)}}."""

    data: DataModule
    statistics: LayerStatistics
    measurements: Recorded


def fit(
    module: Network,
    folder: Path,
    *,
    batches: int,
    epochs: int = 1,
    block: int = 8,
    every: int = 200,
    resume: Path | None = None,
    save: Path | None = None,
) -> Fitted:
    """Trains on the CPU, for `batches` blocks an epoch; from the checkpoint `resume`, and to `save`."""
    data = DataModule(folder, batch_size=64, seed=module.seed, block=block)
    statistics, measurements = LayerStatistics(every=every, probe=256), Recorded()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        limit_train_batches=batches,
        limit_val_batches=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[statistics, RecordMetrics(measurements.update)],
    )
    trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    if save is not None:
        trainer.save_checkpoint(save)
    trainer.test(module, data, verbose=False)
    return Fitted(data, statistics, measurements)


def gradients(module: Network, x: torch.Tensor, y: torch.Tensor) -> tuple:
    """Losses, gradients and trace of all its replicas, on one batch x (784, B), y (B,)."""
    with torch.no_grad():
        return mlp.loss_and_gradients(x, y, list(module.weights), list(module.biases), module.activation, module.loss)


def parameters(module: Network) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in module.parameters()]


def test_one_step_is_w_minus_lr_gw(normalized: Path) -> None:
    """On the first batch of the epoch's order, with gradients written out here for one hidden layer."""
    module = network()
    images = fit(module, normalized, batches=1, block=1).data
    (W1, W2), (b1, b2) = init.draw(init.kaiming(), [784, 50, 10], replicas=2, seed=0)
    x, y = images.splits["train"]
    rows = torch.from_numpy(stream(0, "epoch", 0).permutation(50_000)[:64])
    x, y = x[rows].T, y[rows]
    z1 = W1 @ x + b1
    a1 = z1.relu()
    p = (W2 @ a1 + b2).softmax(1)
    p[:, y, torch.arange(64)] -= 1
    delta2 = p / 64
    delta1 = (W2.mT @ delta2) * (z1 > 0)
    # float32, sums of 64 products: some ulps of values of order 0.1
    expected = [W1 - 0.05 * delta1 @ x.T, W2 - 0.05 * delta2 @ a1.mT]
    for ours, theirs in zip(module.weights, expected, strict=True):
        torch.testing.assert_close(ours.detach(), theirs, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(
        module.biases[0].detach(), b1 - 0.05 * delta1.sum(-1, keepdim=True), rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize("optimizer", [SGD, partial(optim.SGD, lr=0.02, momentum=0.9), partial(optim.Adam, lr=1e-3)])
def test_r_replicas_are_r_runs(optimizer: Callable, normalized: Path) -> None:
    """Replica r of three is the third run's: one with its draw, alone, for 40 steps; in float64, to rounding."""
    together = network(replicas=3, optimizer=optimizer).double()
    alone = network(replicas=1, optimizer=optimizer).double()
    data = DataModule(normalized, batch_size=64, seed=0)
    data.setup("fit")
    weights, biases = init.draw(init.kaiming(), [784, 50, 10], replicas=3, seed=0, dtype=torch.float64)
    for module, part in [(together, slice(0, 3)), (alone, slice(2, 3))]:
        module.weights.extend([W[part].clone() for W in weights])
        module.biases.extend([b[part].clone() for b in biases])
        steps = module.optimizer(list(module.parameters()))
        for batch in range(40):
            rows = slice(64 * batch, 64 * (batch + 1))
            x, y = (split[rows] for split in data.splits["train"])
            _, found, _ = gradients(module, x.double().mT, y)
            for W, b, gradient in zip(module.weights, module.biases, found, strict=True):
                W.grad, b.grad = gradient.W, gradient.b
            steps.step()
    for many, one in zip(parameters(together), parameters(alone), strict=True):
        torch.testing.assert_close(many[2:], one, rtol=1e-9, atol=1e-11)


def test_same_seed_same_bits_whatever_is_measured(normalized: Path) -> None:
    """Neither statistics, nor how steps are grouped in blocks, touch the training."""
    digests = set()
    for every, block in [(200, 8), (3, 8), (10**6, 8), (200, 1)]:
        module = network()
        fit(module, normalized, batches=24 // block, block=block, every=every)
        assert module.global_step == 24
        digests.add(weights_sha256(module.parameters()))
    assert len(digests) == 1
    other = network(seed=1)
    fit(other, normalized, batches=3)
    assert weights_sha256(other.parameters()) not in digests


@pytest.mark.parametrize("optimizer", [SGD, partial(optim.Adam, lr=1e-3)])
def test_bits_do_not_depend_on_the_number_of_workers(optimizer: Callable, normalized: Path) -> None:
    """Nine replicas are three groups, however many workers there are; each computes with one thread."""
    found = []
    for count in (1, 2, 3):
        module = network(replicas=9, optimizer=optimizer)
        module.workers = Workers(count)
        fitted = fit(module, normalized, batches=3, every=10)
        found.append((weights_sha256(module.parameters()), fitted.measurements, fitted.statistics.tensors()))
        module.workers.close()
    (digest, first, tensors), *others = found
    for other, again, same in others:
        assert other == digest
        np.testing.assert_equal(again, first)
        assert all(torch.equal(same[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("optimizer", [SGD, partial(optim.Adam, lr=1e-3)])
def test_a_checkpoint_holds_all_groups(optimizer: Callable, normalized: Path, tmp_path: Path) -> None:
    """Two epochs at once are one, saved, and another from the checkpoint: to the bit, the optimiser's state with it."""
    whole, first, rest = (network(replicas=9, optimizer=optimizer) for _ in range(3))
    fit(whole, normalized, batches=2, epochs=2)
    fit(first, normalized, batches=2, epochs=1, save=tmp_path / "last.ckpt")
    fit(rest, normalized, batches=2, epochs=2, resume=tmp_path / "last.ckpt")
    assert weights_sha256(rest.parameters()) == weights_sha256(whole.parameters())
    assert len(torch.load(tmp_path / "last.ckpt", weights_only=True)["optimizer_states"]) == 1


def test_plain_descent_is_torch_sgd(normalized: Path) -> None:
    """Whose own step is taken where there is more to it: a weight decay too small to change a weight, here."""
    ours, theirs = network(), network(optimizer=partial(optim.SGD, lr=0.05, weight_decay=1e-40))
    for module in ours, theirs:
        fit(module, normalized, batches=3)
        assert module.global_step == 24
    for one, other in zip(parameters(ours), parameters(theirs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)  # float32, rounded otherwise in each of 24 steps


@pytest.mark.parametrize("precision", PRECISIONS)
def test_matmul_precision_holds_while_it_lasts(precision: str, normalized: Path) -> None:
    """Of 24 steps: near what `highest` gives, as near as factors rounded to eight bits can be."""
    exact, module = network(), network()
    fit(exact, normalized, batches=3)
    with matmul_precision(precision):
        assert torch.get_float32_matmul_precision() == precision
        fit(module, normalized, batches=3)
    assert torch.get_float32_matmul_precision() == "highest"
    assert (weights_sha256(module.parameters()) == weights_sha256(exact.parameters())) >= (precision == "highest")
    for one, other in zip(parameters(module), parameters(exact), strict=True):
        assert (one - other).norm() <= 24 * 2**-8 * other.norm()


def test_statistics_are_recorded_at_their_steps(normalized: Path) -> None:
    """At 0, every 10 steps, and at the end; losses are means since the last time; all have a value a replica."""
    recorded = fit(network(), normalized, batches=3, every=10).measurements
    assert sorted(recorded) == [0, 10, 20, 24]
    assert "train/loss" not in recorded[0]
    assert all(values.shape == (2,) for named in recorded.values() for values in named.values())
    layers = {name.split("/")[1] for name in recorded[10] if name.startswith("layer1/")}
    assert layers >= {"act_mean", "act_std", "preact_std", "dead_fraction", "grad_std", "weight_std", "update_ratio"}


def test_update_ratio_is_that_of_the_step_that_follows(normalized: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of step t: std(W_{t+1} - W_t) / std(W_t), with the weights as they stood between the steps."""
    weights: list[torch.Tensor] = []

    measure = LayerStatistics.measure

    def watched(statistics: LayerStatistics, group: ReplicaGroup, step: int) -> list[torch.Tensor]:
        weights.append(group.module.weights[0].detach().clone())
        return measure(statistics, group, step)

    monkeypatch.setattr(LayerStatistics, "measure", watched)
    recorded = fit(network(), normalized, batches=4, block=1, every=1).measurements
    assert len(weights) == 5
    for step in range(4):
        before, after = weights[step].double(), weights[step + 1].double()
        expected = (after - before).std((1, 2)) / before.std((1, 2))
        # There in float32: a sum of 39,200 squares, added pairwise, and differences of numbers near each other.
        np.testing.assert_allclose(recorded[step]["layer1/update_ratio"], expected.numpy(), rtol=1e-5)
    assert "layer1/update_ratio" not in recorded[4]


def test_train_loss_is_the_mean_over_the_steps_since(normalized: Path) -> None:
    """Where nothing is learnt (lr = 1e-12) the mean over 20 batches is the loss of their images at once."""
    module = network(optimizer=partial(optim.SGD, lr=1e-12))
    fitted = fit(module, normalized, batches=1, block=20, every=20)
    images, recorded = fitted.data, fitted.measurements
    rows = torch.from_numpy(stream(0, "epoch", 0).permutation(50_000)[: 64 * 20])
    x, y = (split[rows] for split in images.splits["train"])
    losses, _, _ = gradients(module, x.mT, y)
    np.testing.assert_allclose(recorded[20]["train/loss"], losses.numpy(), rtol=1e-5)


def test_lsuv_is_calibrated_on_training_images(normalized: Path) -> None:
    module = network(scheme=init.LSUV(images=500), hidden=[50, 50], optimizer=partial(optim.SGD, lr=1e-12))
    images = fit(module, normalized, batches=1).data
    _, _, trace = gradients(module, images.splits["train"][0][:500].mT, images.splits["train"][1][:500])
    for z in trace.z:
        torch.testing.assert_close(z.std((1, 2)), torch.ones(2), rtol=1e-4, atol=0)


# The lesson's numbers at step 0, on 784-50 and the validation images. They are of draws: each is held against the mean
# of 400 replicas, within 4 of its standard errors and half a unit of the last digit quoted.


@pytest.fixture(scope="module")
def validation(normalized: Path) -> torch.Tensor:
    return load(normalized, "validation")[0][:2000].mT


def assert_mean(values: torch.Tensor, quoted: float, rounding: float = 0.0) -> None:
    """The mean of values (R,) is `quoted`, to 4 standard errors and the rounding of the quoted number."""
    error = 4 * values.std().item() / sqrt(len(values))
    assert abs(values.mean().item() - quoted) < error + rounding


def first_layer(scheme: init.Scheme, x: torch.Tensor) -> torch.Tensor:
    (W,), (b,) = init.draw(scheme, [784, 50], replicas=400, seed=0)
    return W @ x + b


def test_lecun_keeps_the_variance_of_the_images(validation: torch.Tensor) -> None:
    """E[z^2] = |x|^2 / 784 exactly in expectation, 0.99 on these images: the lesson prints 0.9786 for one draw."""
    z = first_layer(init.VarianceScaling(1), validation)
    assert_mean(z.square().mean((1, 2)), validation.square().mean().item())
    assert_mean(z.std((1, 2)), 0.99, rounding=0.005)


def test_kaiming_relu_and_shifted_relu_means(validation: torch.Tensor) -> None:
    """Kaiming: mean near 0.55, std near 0.82; minus 0.5, the mean is near 0.05 and the std the same, exactly."""
    z = first_layer(init.kaiming(), validation)
    plain, shifted = ReLU()(z), ReLU(shift=0.5)(z)
    assert_mean(plain.mean((1, 2)), 0.55, rounding=0.005)
    assert_mean(plain.std((1, 2)), 0.82, rounding=0.005)
    assert_mean(shifted.mean((1, 2)), 0.05, rounding=0.005)
    torch.testing.assert_close(shifted.std((1, 2)), plain.std((1, 2)), rtol=1e-4, atol=0)


def test_depth_explodes_vanishes_or_keeps_the_scale(validation: torch.Tensor) -> None:
    """Eight hidden layers of 50: what is left, at the last, of how a unit differs from image to image.

    A layer multiplies it by about sqrt(50 Var W / 2): 5 for `normal`, 1 for `kaiming`, sqrt(1 / 6) for `pytorch`.
    """
    left = {}
    for name, scheme in {
        "normal": init.VarianceScaling(1, "one"),
        "kaiming": init.kaiming(),
        "pytorch": init.TorchLinear(),
    }.items():
        weights, biases = init.draw(scheme, [784, *[50] * 8], replicas=50, seed=0)
        z = mlp.forward(validation[:, :200], weights, biases, ReLU()).z
        left[name] = (z[-1].std(-1).mean() / z[0].std(-1).mean()).item()
    assert left["normal"] > 1e4
    assert 1 / 3 < left["kaiming"] < 3
    assert left["pytorch"] < 1e-2


# Data module


def order(seed: int, epoch: int) -> torch.Tensor:
    sampler = datamodule.EpochOrder(1000, 64, 4, seed=seed, device=torch.device("cpu"))
    sampler.set_epoch(epoch)
    return torch.cat(list(sampler))


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    assert torch.equal(order(0, 1), order(0, 1))
    assert not torch.equal(order(0, 1), order(0, 2))
    assert not torch.equal(order(0, 1), order(1, 1))


def test_an_epoch_is_whole_batches_of_distinct_rows() -> None:
    rows = order(0, 0)
    assert len(rows) == 960 == len(rows.unique())


def test_every_epoch_has_its_own_order_under_lightning(normalized: Path) -> None:
    """Lightning tells the sampler the epoch: two epochs are two orders, and both are what the seed says."""
    seen: list[torch.Tensor] = []

    class Watch(Network):
        def training_step(self, block, batch_idx):
            batches = list(block)
            seen.append(batches[0][0][:, 0])
            super().training_step(batches, batch_idx)

    module = network(kind=Watch)
    images = fit(module, normalized, batches=1, epochs=2).data
    for epoch, first in enumerate(seen):
        row = stream(0, "epoch", epoch).permutation(50_000)[0]
        assert torch.equal(first, images.splits["train"][0][row])


def test_blocks_hand_out_columns(normalized: Path) -> None:
    images = DataModule(normalized, batch_size=64, seed=0, block=4)
    images.setup("fit")
    blocks = images.train_dataloader()
    assert isinstance(blocks, DataLoader)
    batches = list(next(iter(blocks)))
    assert [(x.shape, y.shape) for x, y in batches] == [((784, 64), (64,))] * 4
    (chunks,) = images.val_dataloader()
    assert sum(len(y) for _, y in chunks) == 10_000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"replicas": 0}, "replicas is 0; expected a whole number of at least 1"),
        ({"hidden": [50, -5]}, "width is -5"),
        ({"hidden": [2.5]}, "width is 2.5"),
        ({"seed": -1}, "seed is -1"),
        ({"optimizer": partial(optim.SGD, lr=-1.0)}, "optimizer: Invalid learning rate: -1.0"),
        ({"optimizer": partial(optim.SGD, lr="fast")}, "optimizer.lr is 'fast'; expected a number"),
        ({"optimizer": partial(optim.SGD, lr=float("nan"))}, "optimizer: lr is nan; expected a finite number"),
        ({"optimizer": lambda parameters: parameters}, "expected torch.optim.optimizer.Optimizer"),
        ({"optimizer": optim.LBFGS}, "optimizer LBFGS mixes"),
        ({"scheme": None}, "scheme is None; expected initlab.nn.init.Scheme"),
        ({"activation": None}, "activation is None; expected initlab.nn.activations.Activation"),
        ({"loss": ReLU()}, "expected initlab.nn.losses.Loss"),
    ],
)
def test_network_refuses(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"every": 0}, "stats.every is 0; expected a whole number of at least 1"),
        ({"probe": 1}, "stats.probe is 1; expected a whole number of at least 2"),
    ],
)
def test_statistics_refuse(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LayerStatistics(**{"every": 200, "probe": 256} | changes)


def test_a_batch_larger_than_the_data_is_refused(normalized: Path) -> None:
    with pytest.raises(ValueError, match="batch_size is 50001; there are 50,000 training images"):
        DataModule(normalized, batch_size=50_001, seed=0).prepare_data()


def test_what_pictures_are_made_of(normalized: Path) -> None:
    """One histogram per measurement, of every activation of the probe; weights before each epoch and as trained."""
    module = network(hidden=[50, 20])
    tensors = fit(module, normalized, batches=1, block=8, every=5).statistics.tensors()
    assert tensors["step"].tolist() == [0, 5, 8]
    assert set(tensors) == {"step", "layer1/histogram", "layer2/histogram", "layer1/weight"}
    assert tensors["layer1/histogram"].sum(1).tolist() == [2 * 50 * 256] * 3
    assert tensors["layer2/histogram"].sum(1).tolist() == [2 * 20 * 256] * 3
    assert tensors["layer1/weight"].shape == (2, UNITS, 784)
    drawn = init.draw(init.kaiming(), [784, 50, 20, 10], replicas=2, seed=0)[0][0]
    assert torch.equal(tensors["layer1/weight"][0], drawn[0, :UNITS])
    assert torch.equal(tensors["layer1/weight"][1], module.weights[0][0, :UNITS].detach())


def test_theory_goes_with_the_measurements(normalized: Path) -> None:
    """Of 100 replicas, each mean over replicas lies within 4 standard errors of what theory expects of it."""
    module = network(replicas=100)
    fitted = fit(module, normalized, batches=1, block=1)
    probe = fitted.data.splits["validation"][0][:256]
    expected = expected_statistics(module.scheme, module.activation, module.widths(784), probe)
    values = fitted.measurements
    assert set(expected) - set(values[0]) == {"layer1/backward_ratio"}
    for name in ("layer1/preact_mean", "layer1/act_mean", "layer1/saturated_fraction", "layer2/preact_mean"):
        measured = values[0][name]
        assert abs(measured.mean() - expected[name]) < 4 * measured.std(ddof=1) / sqrt(100), name


@dataclass(frozen=True, kw_only=True)
class Squared(Activation):
    """An activation of one's own."""

    def f(self, z: torch.Tensor) -> torch.Tensor:
        return z.square()

    def f_backward(self, z: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
        return 2 * z * grad


@pytest.mark.parametrize(
    ("scheme", "activation"), [(init.Constant(0.1), ReLU()), (init.kaiming(), Squared())], ids=["constant", "own"]
)
def test_what_theory_says_nothing_about(scheme: init.Scheme, activation: Activation) -> None:
    assert expected_statistics(scheme, activation, [4, 3, 2], torch.ones(5, 4)) == {}


def test_only_finite_expectations_are_recorded() -> None:
    """A hundred layers that multiply the scale by 1e5 each: theory's numbers overflow, and are left out."""
    found = expected_statistics(init.VarianceScaling(1e10), ReLU(), [4] * 101 + [2], torch.ones(5, 4))
    assert np.isfinite([*found.values()]).all()
    assert "layer1/act_std" in found
    assert "layer100/act_std" not in found


def test_what_depends_on_the_activation_is_computed() -> None:
    module = network(scheme=init.kaiming("auto"), activation=ReLU(leak=0.5))
    assert module.scheme == init.kaiming(0.5)
    assert network(scheme=init.Critical()).scheme == init.Gaussian(sqrt(2), 0.0)
