"""One run on two devices: two processes, on the CPU with gloo as on GPUs with NCCL. The same numbers as on one."""

import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from conftest import started, wait_for
from helpers import runs
from mlflow import MlflowClient
from safetensors.torch import load_file

from initlab.tracking.journal import Journal
from initlab.tracking.run_logger import RunLogger

TWO = "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"
ONE = ("trainer=cpu",)
Train = Callable[..., Journal]


@pytest.fixture
def trained(normalized: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """What `train.py` does, in this process and those that it starts: {name} is the folder, and `each` sees the run."""
    monkeypatch.chdir(tmp_path)

    def train(name: str, *words: str, each: Callable[[RunLogger], None] = lambda run: None) -> Journal:
        config = runs.composed(normalized, *words, "stats.every=100", "+trainer.limit_train_batches=256")
        return runs.train(tmp_path / name, config, each=each)

    return train


def ranks(process: psutil.Process) -> list[psutil.Process]:
    """The other ranks of a run, which this process has spawned."""
    return [child for child in process.children() if "spawn_main" in " ".join(child.cmdline())]


def assert_same(one: Journal, two: Journal, *, rtol: float, atol: float) -> None:
    """Every replica's value of every metric at every step; and what pictures are made of."""
    assert one.history.keys() == two.history.keys()
    for step, values in one.history.items():
        assert values.keys() == two.history[step].keys()
        for name, replicas in values.items():
            np.testing.assert_allclose(
                two.history[step][name], replicas, rtol=rtol, atol=atol, err_msg=f"{name} {step}"
            )
    ours, theirs = (load_file(journal.folder / "tensors.safetensors") for journal in (one, two))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        slack = 4 if name.endswith("histogram") else 1e-5  # images that rounding brings over a bin's edge; weights
        np.testing.assert_allclose(theirs[name], tensor, rtol=rtol, atol=slack)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("replicas=4", "init=unit_relu"),
        ("replicas=6", "init=lsuv", "optimizer=adam"),
    ],
)
def test_two_devices_are_one(words: tuple[str, ...], trained: Train) -> None:
    """Through 256 steps in float32: sums in another order differ by some 1e-7, which steps let grow; one image of the
    10,000 may be taken for another digit.
    """
    assert_same(trained("one", *words, *ONE), trained("two", *words, *TWO), rtol=1e-3, atol=1.5e-4)


@pytest.mark.faults(
    "`kill -9` of the process of one device, of two that share a run",
    "the run is FAILED, naming the device; `resume=true` ends it, with the optimiser's state of both",
)
def test_a_device_is_lost_and_the_run_goes_on(trained: Train) -> None:
    """Its process is killed after the first epoch; the whole of the optimiser's state is in the checkpoint."""
    words = "replicas=4", "optimizer=adam", "trainer.max_epochs=2"

    def kill(run: RunLogger) -> None:
        if len(run.journal.entries) > 2:
            ranks(psutil.Process())[-1].kill()

    with pytest.raises(RuntimeError, match="the process of device 1 ended with exit code -9"):
        trained("two", *words, *TWO, each=kill)
    assert ranks(psutil.Process()) == []
    two = trained("two", *words, *TWO)
    assert two.state["status"] == "FINISHED"
    assert_same(trained("one", *words, *ONE), two, rtol=1e-3, atol=1.5e-4)


@pytest.mark.slow
def test_sigterm_ends_all_of_it(project: Path) -> None:
    """Also in an allocation of Slurm's, whose number of tasks is not that of devices."""
    slurm = {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "1"}
    with started("trainer.max_epochs=1000", "replicas=2", *TWO, cwd=project, **slurm) as process:
        wait_for("epoch 1/", process)
        others = ranks(psutil.Process(process.pid))
        assert len(others) == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
        assert not [other for other in others if other.is_running()]
    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("initlab").experiment_id])
    assert (run.info.status, run.data.tags["end.reason"]) == ("KILLED", "SIGTERM")
