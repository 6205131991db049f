"""The lesson's numbers, each beside what theory predicts and where it lies among many draws.

Two write-ups of the lesson print numbers: A, the notebook "Forward and Backward Passes", on all 60,000 images as they
are (`mnist_60k`); B, "Deep Learning from Foundations: forward and backward pass", on fast.ai's split (`mnist`).
A number that is a function of the data must agree in all printed digits. A number that is one random draw is compared
with the central 99 % of our draws, made by `init` and `mlp`. C is what the lesson claims in words: each claim is put as
an expectation and compared with the 99 % interval of our mean.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from math import sqrt
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from initlab.checks import check_int
from initlab.data import idx
from initlab.data import normalized_files as normalized_data
from initlab.lesson.rows import EPS, Row, exact, expectation, random, verbatim, zero
from initlab.lesson.sampling import (
    KAIMING,
    RELU,
    SEED,
    STEPS,
    WIDTH,
    accuracies,
    first_layer_moments,
    second_moments,
)
from initlab.nn import init, theory
from initlab.nn.activations import ReLU
from initlab.nn.losses import CrossEntropy, MeanSquaredError
from initlab.workers import Workers, one_thread_each

LECUN, SHIFTED = init.VarianceScaling(1), ReLU(shift=0.5)


def rows(raw: Path, normalized: Path, *, draws: int, workers: Workers) -> list[Row]:
    """Returns the whole table, from the raw files and both normalised data sets.

    Raises ValueError for fewer than 2 draws; DataError.
    """
    check_int("draws", draws, least=2)
    return [
        *source_a(raw, normalized / "mnist_60k", draws, workers),
        *source_b(normalized / "mnist", draws, workers),
        *claims(normalized / "mnist", draws, workers),
    ]


def source_a(raw: Path, folder: Path, draws: int, workers: Workers) -> Iterator[Row]:
    """Source A: the data set `mnist_60k`, measured on all 60,000 training images."""
    facts = normalized_data.read_facts(folder)
    images, _ = normalized_data.load(folder, "train")
    pixels, _ = idx.read_pair(raw, "train")
    yield exact("A", "training mean", "x_train.mean()", "33.3184", facts["mean"])
    yield exact("A", "training std", "x_train.std()", "78.5675", facts["std"])
    note = f"zero in exact arithmetic; what is left is float32's rounding, {EPS:.1e}, of numbers of size 1"
    yield zero("A", "training mean, normalised", "x_train.mean()", "1.8892e-08", images, EPS, note)
    yield exact("A", "training std, normalised", "x_train.std()", "1.", images.double().std().item())
    yield verbatim(
        "A",
        "n, m, c",
        "x_train.shape, y_train.max() + 1",
        "60000, 784, tensor(0, dtype=torch.uint8)",
        f"{len(images)}, {facts['inputs']}, {pixels.max() + 1!r}",
        "its get_data() is unpacked in the wrong order: y_train holds images, whose 255 + 1 is 0 in uint8; the "
        f"digits have {facts['classes']} classes",
    )
    lecun, kaiming = "randn/sqrt(m)", "randn*sqrt(2/m)"
    printed = {"lin mean": "0.0142", "lin std": "0.9757", "relu mean": "0.3912", "relu std": "0.5861"}
    yield from first_layer("A", lecun, LECUN, images, printed, draws, workers)
    printed = {"w1 mean": "-0.0003", "w1 std": "0.0504", "relu mean": "0.5439", "relu std": "0.8457"}
    torchs = {"relu mean": "0.4811", "relu std": "0.7848"}
    found = first_layer(
        "A", kaiming, KAIMING, images, printed, draws, workers, {"kaiming_normal_(w1, mode='fan_out')": torchs}
    )
    yield from found


def source_b(folder: Path, draws: int, workers: Workers) -> Iterator[Row]:
    """Source B: the data set `mnist`, measured on the 10,000 validation images."""
    facts = normalized_data.read_facts(folder)
    train, labels = normalized_data.load(folder, "train")
    images, _ = normalized_data.load(folder, "validation")
    rest = 3.0614e-05
    yield exact("B", "training mean", "x_train.mean()", "0.1304", facts["mean"])
    yield exact("B", "training std", "x_train.std()", "0.3073", facts["std"])
    bound = EPS * sqrt(train.numel()) * facts["mean"] / facts["std"]
    note = f"zero in exact arithmetic; n float32 roundings of random sign, eps sqrt(n) mean/std, leave {bound:.1e}"
    yield zero("B", "training mean, normalised", "x_train.mean()", f"{rest:.4e}", train, bound, note)
    yield exact("B", "training std, normalised", "x_train.std()", "1.", train.double().std().item())
    size = f"{len(train)}, {train.shape[1]}, {labels.max() + 1}"
    yield verbatim("B", "n, m, c", "x_train.shape, y_train.max() + 1", "50000, 784, 10", size)
    yield exact(
        "B",
        "validation mean, normalised, plus the 3.0614e-05 above",
        "x_valid.mean()",
        "-0.0058",
        facts["splits"]["validation"]["mean"] + rest,
        f"without: {facts['splits']['validation']['mean']:.4f}: the printed one carries the training mean's rounding",
    )
    std = facts["splits"]["validation"]["std"]
    yield exact("B", "validation std, normalised", "x_valid.std()", "0.9924", std)
    printed = {"lin mean": "0.0004", "lin std": "0.9786", "relu mean": "0.3875", "relu std": "0.5665"}
    yield from first_layer("B", "randn/sqrt(m)", LECUN, images, printed, draws, workers)
    printed = {"w1 mean": "-7.2458e-05", "w1 std": "0.0507", "relu mean": "0.5510", "relu std": "0.8071"}
    printed |= {"shifted mean": "0.1513", "shifted std": "0.8884"}
    yield from first_layer("B", "randn*sqrt(2/m)", KAIMING, images, printed, draws, workers)
    ours = list(init.draw(KAIMING, [784, WIDTH], replicas=1, seed=SEED)[0][0][0].T.shape)
    yield verbatim("B", "weight's shape", "w1.shape", "[784, 50]", str(ours), "x @ w: the transpose of W, as used here")
    shape = str(list(nn.Linear(784, WIDTH).weight.shape))
    yield verbatim("B", "weight's shape, torch", "nn.Linear(m, nh).weight.shape", "[50, 784]", shape)


def claims(folder: Path, draws: int, workers: Workers) -> Iterator[Row]:
    """What the lesson claims in words, as numbers that can be tested."""
    images, _ = normalized_data.load(folder, "validation")
    x = images[:1000].mT  # (784, B)
    yield from claims_on_scale(x, draws, workers)
    yield from claims_on_the_shift(images, draws, workers)
    yield from claims_on_torch(x, draws, workers)
    yield claim_on_the_loss(folder, draws, workers)


def claims_on_scale(x: Tensor, draws: int, workers: Workers) -> Iterator[Row]:
    """What a layer with a ReLU does to E[a^2], and what eight of them do."""
    kaiming, lecun = second_moments(KAIMING, x, draws, workers), second_moments(LECUN, x, draws, workers)
    per_layer = "mean over eight layers of E[a_l^2] / E[a_{l-1}^2]"
    yield expectation("Kaiming's 2 restores the scale", f"{per_layer}, kaiming", "1", _ratios(kaiming), 1.0)
    yield expectation("without it ReLU halves it", f"{per_layer}, lecun", "0.5", _ratios(lecun), 0.5)
    left = lecun[:, -1] / lecun[:, 0]
    note = "2^-8 of the variance, a 16th of the scale"
    yield expectation(
        "halved in each of eight layers, it is gone", "E[a_8^2] / E[x^2], lecun", "0.0039", left, 0.5**8, note
    )


def claims_on_the_shift(images: Tensor, draws: int, workers: Workers) -> Iterator[Row]:
    """max(z, 0) - 0.5 is said to make the mean zero, and to change the std."""
    drawn = first_layer_moments(KAIMING, images, {"relu": RELU, "shifted": SHIFTED}, draws, workers)
    q = 2 * images.double().square().mean(1)
    yield expectation(
        "a shift of 0.5 makes the mean zero",
        "shift at which the mean is zero, kaiming",
        "0.5",
        drawn["relu mean"],
        float(theory.act_mean(q, theory.Phi.of(RELU)).mean()),
        f"near it: 1/sqrt(pi) = {theory.zero_mean_shift(2):.3f} for N(0, 1) inputs; images of many norms lower it",
    )
    yield random(
        "C",
        "the shift changes the std",
        "std of the shifted minus std of the plain ReLU, same draw",
        "0.0813",
        drawn["shifted std"] - drawn["relu std"],
        0.0,
        "0.8884 - 0.8071, from B; a constant changes no std: the two are different draws",
    )


def claims_on_torch(x: Tensor, draws: int, workers: Workers) -> Iterator[Row]:
    """What torch's initialisers draw."""
    generator = torch.Generator().manual_seed(SEED)
    kaiming_normal = partial(nn.init.kaiming_normal_, mode="fan_out", generator=generator)
    yield expectation(
        "fan_out of a (784, 50) tensor is its inputs",
        "kaiming_normal_(w1, mode='fan_out').std(), against sqrt(2/784)",
        f"{sqrt(2 / 784):.5f}",
        _stds(kaiming_normal, (784, WIDTH), draws),
        sqrt(2 / 784),
        f"torch reads a weight as (out, in); fan_in would give sqrt(2/50) = {sqrt(2 / WIDTH):.1f}",
    )
    (w,), _ = init.draw(init.VarianceScaling(1, "one"), [784, WIDTH], replicas=draws, seed=SEED)
    kurtosis = ((w**4).mean((1, 2)) / w.square().mean((1, 2)) ** 2).double().numpy()
    yield expectation(
        "randn is uniform",
        "kurtosis of randn(m, nh)",
        "1.8",
        kurtosis,
        3.0,
        "a uniform distribution has 9/5, a normal one 3",
    )
    kaiming_uniform = partial(nn.init.kaiming_uniform_, a=sqrt(5), generator=generator)
    yield expectation(
        "kaiming_uniform_(a=sqrt(5)) is U(±1/sqrt(fan_in))",
        "its std on a (50, 784) tensor, against 1/sqrt(3 * 784)",
        f"{1 / sqrt(3 * 784):.5f}",
        _stds(kaiming_uniform, (WIDTH, 784), draws),
        1 / sqrt(3 * 784),
        "gain sqrt(1/3)",
    )
    yield expectation(
        "kaiming_uniform_(a=sqrt(5)) keeps the scale",
        "mean over eight layers of E[a_l^2] / E[a_{l-1}^2], no biases",
        "1",
        _ratios(second_moments(init.VarianceScaling(1 / 3, "fan_in", "uniform"), x, draws, workers)),
        1 / 6,
        "one sixth of Kaiming's variance at every ReLU layer",
    )


def claim_on_the_loss(folder: Path, draws: int, workers: Workers) -> Row:
    """MSE of one output against the digit, as a stand-in for cross-entropy.

    Draw r of both has the same first layer and sees the same batches, so they are compared draw by draw.
    """
    classes = normalized_data.read_facts(folder)["classes"]
    mse = 100 * accuracies(folder, MeanSquaredError(classes), 0.002, draws, workers)
    cross_entropy = 100 * accuracies(folder, CrossEntropy(classes), 0.05, draws, workers)
    return expectation(
        "mse on one output stands in for cross-entropy",
        f"validation accuracy, %, after {STEPS} steps, kaiming: mse's minus cross-entropy's, same draw",
        "0",
        mse - cross_entropy,
        None,
        f"means: {mse.mean():.1f} (learning rate 0.002) and {cross_entropy.mean():.1f} (0.05). In the forward numbers "
        "above the loss plays no part",
    )


def _ratios(moments: np.ndarray) -> np.ndarray:
    """Returns the ratio of each layer to the one before, mean over layers: (draws, 1 + L) -> (draws,)."""
    return (moments[:, 1:] / moments[:, :-1]).mean(1)


def _stds(initialise: Callable[[Tensor], Tensor], shape: tuple[int, int], draws: int) -> np.ndarray:
    return np.array([initialise(torch.empty(shape)).std().item() for _ in range(draws)])


def first_layer(
    source: str,
    w1: str,
    scheme: init.Scheme,
    images: Tensor,
    printed: Mapping[str, str],
    draws: int,
    workers: Workers,
    more: Mapping[str, Mapping[str, str]] | None = None,
) -> Iterator[Row]:
    """Rows for one way to draw w1.

    more: {another way, with the same distribution: what was printed for it}.
    """
    drawn = first_layer_moments(scheme, images, {"lin": None, "relu": RELU, "shifted": SHIFTED}, draws, workers)
    variance = scheme.variance(WIDTH, 784)
    expected = expectations(variance, images)
    spread = theory.preact_mean_spread(images.double().mean(0), variance, WIDTH)
    expressions = {"w1": "w1", "lin": "(x@w1 + b1)", "relu": "relu(x@w1 + b1)", "shifted": "(relu(x@w1 + b1) - 0.5)"}
    for w, values in ({w1: printed} | dict(more or {})).items():
        for name, value in values.items():
            what, moment = name.split()
            expression = f"{expressions[what]}.{moment}(), w1 = {w}"
            note = {
                "lin mean": f"standard deviation over draws, by theory: {spread:.3f}",
                "lin std": f"theory of wide layers; at width {WIDTH} times sqrt(1 - {spread:.3f}^2)",
            }.get(name, "")
            yield random(source, name, expression, value, drawn[name], expected[name], note)


def expectations(variance: float, images: Tensor) -> dict[str, float]:
    """Returns what theory expects of the first layer, given the variance of its weights, on images (N, 784)."""
    square_norms = images.double().square().sum(1)
    values = {"w1 mean": 0.0, "w1 std": sqrt(variance)}
    layers = [theory.DrawnLayer(784, WIDTH, variance), theory.DrawnLayer(WIDTH, 1, 1 / WIDTH)]
    for name, phi in {"relu": RELU, "shifted": SHIFTED}.items():
        moments, _ = theory.moments(layers, square_norms, theory.Phi.of(phi))
        values |= {"lin mean": moments.preact_mean, "lin std": moments.preact_std}
        values |= {f"{name} mean": moments.act_mean, f"{name} std": moments.act_std}
    return values


def write_table(raw: Path, normalized: Path, table: Path, *, draws: int) -> None:
    """Writes the table as CSV, and prints how many verdicts there are of each kind.

    raw: folder of MNIST's four files.  normalized: folder of both normalised data sets.  draws: number of draws that a
    random number is compared with.
    Raises ValueError for fewer than 2 draws; DataError.
    """
    with one_thread_each() as workers:
        frame = pd.DataFrame([asdict(row) for row in rows(raw, normalized, draws=draws, workers=workers)])
    table.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(table, index=False, lineterminator="\n")
    counts = frame["verdict"].value_counts()
    print(", ".join(f"{counts[verdict]} {verdict}" for verdict in counts.index))
