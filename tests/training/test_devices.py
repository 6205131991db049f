"""Devices other than the CPU: a stand-in for Apple's MPS on which whole runs are made, and the choice among devices."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import runs, stand_in_device
from omegaconf import OmegaConf
from safetensors.torch import load_file

from initlab.nn import layer_stats
from initlab.nn.losses import CrossEntropy, MeanSquaredError
from initlab.tracking.run_logger import RunLogger
from initlab.training import devices, fit
from initlab.training.build import build

SHORT = ("trainer=cpu", "replicas=2", "model.hidden=[20,20]", "+trainer.limit_train_batches=6", "stats.every=3")


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Runs train on the stand-in device."""

    monkeypatch.setattr(fit, "build", lambda *arguments: stand_in_device.moved(build(*arguments)))
    with stand_in_device.stand_in_device():
        yield


@pytest.mark.parametrize("words", [("init=lsuv",), ("init=shifted_relu", "optimizer=adam"), ("loss=mse",)])
def test_a_device_computes_what_the_cpu_does(words: tuple[str, ...], normalized: Path, tmp_path: Path) -> None:
    """Through training, test, checkpoint and record. Sums in the same order: the same bits."""
    config = runs.composed(normalized, *SHORT, *words, "trainer.max_epochs=1", "+trainer.inference_mode=false")
    here = runs.train(tmp_path / "cpu", config)
    with pytest.MonkeyPatch.context() as patch, stand_in_device.stand_in_device():
        patch.setattr(fit, "build", lambda *arguments: stand_in_device.moved(build(*arguments)))
        there = runs.train(tmp_path / "device", config)
    assert there.state["tags"]["weights.sha256"] == here.state["tags"]["weights.sha256"]
    for step, values in here.history.items():
        for name, replicas in values.items():
            np.testing.assert_array_equal(there.history[step][name], replicas, err_msg=f"{name} {step}")


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_a_run_is_resumed_on_a_device(on_device: None, normalized: Path, tmp_path: Path) -> None:
    """What the checkpoint kept for the figures comes back on the CPU, and is joined with what is measured after it."""
    words = [*SHORT, "optimizer=adam", "trainer.max_epochs=2", "+trainer.inference_mode=false"]
    config = runs.composed(normalized, *words)
    whole = runs.train(tmp_path / "whole", config)

    def interrupt(run: RunLogger) -> None:
        if max(run.journal.history) > 6:
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        runs.train(tmp_path / "resumed", config, each=interrupt)
    resumed = runs.train(tmp_path / "resumed", config)
    assert resumed.state["tags"]["weights.sha256"] == whole.state["tags"]["weights.sha256"]
    ours, theirs = (load_file(journal.folder / "tensors.safetensors") for journal in (resumed, whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_diverged_replica_is_seen_on_a_device(on_device: None, normalized: Path, tmp_path: Path) -> None:
    """Where maxima ignore NaN, as they may on MPS."""
    words = [*SHORT, "trainer.max_epochs=1", "optimizer.lr=1e9", "+trainer.inference_mode=false"]
    last = runs.train(tmp_path / "run", runs.composed(normalized, *words)).history[6]
    for name in ("val/loss", "test/loss", "layer1/dead_fraction", "layer2/saturated_fraction"):
        assert np.isnan(last[name]).all(), name


def test_the_stand_in_refuses_what_devices_refuse() -> None:
    """The tests above can fail: each of these mistakes is noticed."""
    with stand_in_device.stand_in_device():
        x = torch.ones(3, device=stand_in_device.NAME)
        with pytest.raises(TypeError, match="float64"):
            x.double()
        with pytest.raises(RuntimeError, match="same device"):
            torch.stack([x, torch.ones(3)])
        with pytest.raises(TypeError, match="numpy"):
            x.numpy()
        assert not (x * torch.nan).amax().cpu().isnan()
        torch.use_deterministic_algorithms(True)
        with pytest.raises(RuntimeError, match="deterministic"):
            x.histc()
        torch.use_deterministic_algorithms(False)


# Statistics and predictions with NaN


def test_the_histogram_is_that_of_histc() -> None:
    """At the edges of bins and beyond the ends too. A NaN is in no bin."""
    bins, low, high = layer_stats.BINS, layer_stats.LOW, layer_stats.HIGH
    edges = torch.linspace(low - 1, high + 1, 8 * (int(high - low) + 2) + 1)
    odd = torch.tensor([torch.nan, torch.inf, -torch.inf, -1e-9, 1e-9])
    a = torch.cat([torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 3, edges, odd]).view(1, 1, -1)
    counts = layer_stats.histogram(a)
    assert torch.equal(counts, a.clamp(low, high).histc(bins, low, high))
    assert counts.sum() == a.numel() - 1


def test_the_histogram_is_counted_where_only_deterministic_kernels_run() -> None:
    with stand_in_device.stand_in_device():
        torch.use_deterministic_algorithms(True)
        try:
            counts = layer_stats.histogram(torch.zeros(1, 1, 5, device=stand_in_device.NAME))
        finally:
            torch.use_deterministic_algorithms(False)
        assert counts.cpu().sum() == 5


@pytest.mark.parametrize("loss", [CrossEntropy(10), MeanSquaredError(10)])
def test_predictions_from_nan_are_the_same_on_every_device(loss: CrossEntropy | MeanSquaredError) -> None:
    """Cross-entropy: the first class that is NaN, as torch has it on the CPU. Squared error: NaN, which is no class."""
    z = torch.tensor([1.0, torch.nan, torch.inf, 3.0]).repeat(loss.outputs)[: 4 * loss.outputs].view(1, loss.outputs, 4)
    here = loss.predict(z)
    with stand_in_device.stand_in_device():
        there = loss.predict(z.to(stand_in_device.NAME)).cpu()
    torch.testing.assert_close(there, here, rtol=0, atol=0, equal_nan=True)
    expected = z.argmax(1) if loss.outputs > 1 else z.squeeze(1).round().clamp(0, 9)
    torch.testing.assert_close(here, expected, rtol=0, atol=0, equal_nan=True)


# The choice of a device


@pytest.mark.parametrize(
    ("gpu", "hidden", "replicas", "accelerator"),
    [
        (None, [50], 8, "cpu"),
        (None, [50], 1024, "cpu"),
        ("mps", [50], 8, "cpu"),
        ("mps", [50], 1024, "mps"),
        ("mps", [50] * 8, 8, "cpu"),
        ("cuda", [50], 1, "cpu"),
        ("cuda", [50], 64, "cuda"),
        ("cuda", [2000], 8, "cuda"),
    ],
)
def test_a_gpu_is_chosen_for_large_batches(gpu: str | None, hidden: list[int], replicas: int, accelerator: str) -> None:
    """On a laptop of eight cores: a step of few small networks takes less than the launches of its kernels."""
    choice = devices.choose(gpu, [784, *hidden, 10], replicas=replicas, batch_size=64, cores=8)
    assert choice.accelerator == accelerator
    assert (choice.reason == "") == (gpu is None)


def test_auto_takes_the_cpu_for_a_small_batch_and_gpu_insists(
    normalized: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "available_gpu", lambda: "mps")
    parts = build(OmegaConf.create(runs.composed(normalized, "replicas=1")), tmp_path)
    assert parts.trainer.strategy.root_device == torch.device("cpu")
    assert "trainer=gpu uses the GPU" in parts.reason
    if not torch.accelerator.is_available() or torch.accelerator.current_accelerator().type == stand_in_device.NAME:
        with pytest.raises(Exception, match="gpu"):
            build(OmegaConf.create(runs.composed(normalized, "trainer=gpu")), tmp_path)


def test_a_full_gpu_is_told_in_one_line() -> None:
    with (
        pytest.raises(ValueError, match=r"mps has no room for 8 networks; use another GPU, trainer.devices=\[1\]"),
        devices.memory_errors(torch.device("mps"), 8),
    ):
        raise RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)")
    with pytest.raises(RuntimeError, match="shapes"), devices.memory_errors(torch.device("mps"), 8):
        raise RuntimeError("shapes do not match")
