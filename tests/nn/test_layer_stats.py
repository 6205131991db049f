"""Statistics against numpy, on tensors small enough to see."""

import numpy as np
import pytest
import torch
from scipy import stats as scipy_stats

from initlab.confidence_intervals import mean_ci95
from initlab.nn import layer_stats
from initlab.nn.activations import ReLU, Tanh

R, D, E, B = 3, 4, 5, 6


@pytest.fixture
def layer() -> layer_stats.LayerTensors:
    g = torch.Generator().manual_seed(0)
    z = torch.randn(R, D, B, generator=g)
    z[0, 1] = -1.0  # a dead unit
    delta, W, gW = torch.randn(R, D, B, generator=g), torch.randn(R, D, E, generator=g), torch.randn(R, D, E)
    return layer_stats.LayerTensors(z, z.clamp_min(0), delta, W, gW, ReLU().saturated(z))


def cosine(a: np.ndarray) -> float:
    """Pair by pair, of the images that have an activation."""
    columns = [column / np.linalg.norm(column) for column in a.T if column.any()]
    return float(np.mean([u @ v for i, u in enumerate(columns) for v in columns[:i]]))


def test_each_statistic_is_what_its_name_says(layer: layer_stats.LayerTensors) -> None:
    values = layer_stats.measure([layer, layer])
    for r in range(R):
        z, a, delta, W, gW = (tensor[r].double().numpy() for tensor in layer[:5])
        expected = {
            "preact_mean": z.mean(),
            "preact_std": z.std(ddof=1),
            "act_mean": a.mean(),
            "act_std": a.std(ddof=1),
            "delta_std": B * delta.std(ddof=1),
            "grad_std": gW.std(ddof=1),
            "weight_std": W.std(ddof=1),
            "dead_fraction": np.mean((z <= 0).all(axis=1)),
            "saturated_fraction": np.mean(z <= 0),
            "act_cosine": cosine(a),
        }
        measured = {name: values[f"layer1/{name}"][r].item() for name in expected}
        assert measured == pytest.approx(expected, rel=1e-5)
    assert values["layer1/dead_fraction"][0] >= 0.25
    assert "layer2/dead_fraction" not in values  # the last layer is linear: no unit of it is off


def test_histogram_counts_every_value() -> None:
    """numpy's, with what lies beyond the ends counted at them; a shifted ReLU's floor is the edge of a bin."""
    a = torch.randn(3, 40, 50, generator=torch.Generator().manual_seed(0)) * 4
    edges = np.linspace(layer_stats.LOW, layer_stats.HIGH, layer_stats.BINS + 1)
    expected, _ = np.histogram(a.clamp(layer_stats.LOW, layer_stats.HIGH).numpy(), edges)
    assert layer_stats.histogram(a).tolist() == expected.tolist()
    assert layer_stats.histogram(a).sum() == a.numel()
    floor = int((-0.5 - layer_stats.LOW) / (layer_stats.HIGH - layer_stats.LOW) * layer_stats.BINS)
    assert layer_stats.histogram(torch.full((2, 3, 4), -0.5))[floor] == 24


def test_of_nan_there_is_no_telling_what_is_active(layer: layer_stats.LayerTensors) -> None:
    layer.z[1, 2, 3] = torch.nan
    values = layer_stats.measure([layer, layer])
    for name in ("layer1/dead_fraction", "layer1/saturated_fraction", "layer1/act_cosine"):
        assert values[name].isnan().tolist() == [False, True, False]


def test_saturated_is_a_small_slope() -> None:
    """tanh'(z) = 0.05 at z = 2.178; a unit that is beyond on every image is dead. Of ReLU these are z <= 0."""
    z = torch.tensor([[[-9.0, -2.17, 2.17], [2.19, -2.19, 40.0]]])
    layer = layer_stats.LayerTensors(z, z.tanh(), z, z, z, Tanh().saturated(z))
    values = layer_stats.measure([layer, layer])
    assert values["layer1/saturated_fraction"].item() == pytest.approx(4 / 6)
    assert values["layer1/dead_fraction"].item() == 0.5


@pytest.mark.parametrize("factor", [1e-30, 1.0, 1e30])
def test_cosine_at_any_scale(factor: float) -> None:
    """Squares of these are beyond float32, at either end; an image without activations is left out."""
    a = torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(0))
    a[0, :, 1] = 0
    found = layer_stats.mean_cosine(a * factor)
    assert found.tolist() == pytest.approx([cosine(a[r].double().numpy()) for r in range(2)], rel=1e-5)


def test_no_cosine_of_a_silent_layer() -> None:
    a = torch.zeros(2, 4, 5)
    a[0, :, 0] = 1
    assert layer_stats.mean_cosine(a).isnan().all()


def test_update_ratio_of_plain_sgd(layer: layer_stats.LayerTensors) -> None:
    """W' = W - lr gW: the ratio is lr std(gW) / std(W)."""
    ratio = layer_stats.update_ratio(layer.W, layer.W - 0.1 * layer.gW)
    torch.testing.assert_close(ratio, 0.1 * layer.gW.std((1, 2)) / layer.W.std((1, 2)), rtol=1e-5, atol=0)


@pytest.mark.parametrize("count", [2, 8, 100])
def test_interval_is_students(count: int) -> None:
    values = np.random.default_rng(0).normal(3, 2, count)
    mean, half = mean_ci95(values)
    low, high = scipy_stats.t.interval(0.95, count - 1, loc=values.mean(), scale=scipy_stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx((low, high), rel=1e-9)


def test_interval_covers_95_percent() -> None:
    """Of 4,000 samples of 5 normal draws, the share that covers the mean has standard error sqrt(.95 .05 / 4000)."""
    samples = np.random.default_rng(1).normal(0, 1, (4000, 5))
    covered = np.mean([abs(mean) <= half for mean, half in map(mean_ci95, samples)])
    assert abs(covered - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 4000)


def test_one_replica_has_no_interval() -> None:
    assert mean_ci95(np.array([2.5])) == (2.5, None)
