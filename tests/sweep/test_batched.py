"""Sweeps whose jobs run in worker processes of this machine: the record is the serial launcher's, to the bit."""

import os
import signal
from pathlib import Path

import psutil
import pytest
import torch
from conftest import Train, on_a_terminal, started, until
from mlflow import MlflowClient
from mlflow.entities import Run
from omegaconf import OmegaConf

from initlab.sweep import batched

BATCHED = ("-m", "hydra/launcher=batched", "trainer=cpu", "hydra.callbacks.sweep.report=false")
TINY = ("trainer.max_epochs=2", "+trainer.limit_train_batches=20", "stats.every=10", "model.hidden=[10]")


class Sweep:
    """A sweep as the store has it."""

    def __init__(self, project: Path, name: str) -> None:
        self.client = MlflowClient(f"sqlite:///{project}/mlflow.db")
        folder = str(project / "multirun" / name)
        (self.parent,) = [run for run in self.client.search_runs(["1"]) if run.data.tags.get("sweep") == folder]
        found = self.client.search_runs(["1"], f"tags.`mlflow.parentRunId` = '{self.parent.info.run_id}'")
        self.jobs: dict[str, Run] = {run.info.run_name: run for run in found}
        assert len(self.jobs) == len(found)

    def statuses(self) -> dict[str, str]:
        return {"sweep": self.parent.info.status} | {name: run.info.status for name, run in self.jobs.items()}

    def histories(self, name: str) -> dict[str, list[tuple[int, float]]]:
        run = self.jobs[name]
        return {
            metric: [(point.step, point.value) for point in self.client.get_metric_history(run.info.run_id, metric)]
            for metric in run.data.metrics
        }

    def artifacts(self, name: str) -> set[str]:
        return {item.path for item in self.client.list_artifacts(self.jobs[name].info.run_id)}


def assert_same(found: Sweep, serial: Sweep) -> None:
    """Names, ends, params, tags of the numbers, bits, every point of every metric, artifacts."""
    assert found.statuses() == serial.statuses()
    for name, run in found.jobs.items():
        other = serial.jobs[name]
        for tag in ("weights.sha256", "config.sha256", "inputs.sha256", "overrides", "init", "seed"):
            assert run.data.tags.get(tag) == other.data.tags.get(tag), (name, tag)
        assert run.data.params == other.data.params
        assert found.artifacts(name) - {"traceback.txt"} == serial.artifacts(name)  # of a job that was resumed
        assert repr(run.data.metrics) == repr(other.data.metrics)  # NaN is not itself
        assert repr(found.histories(name)) == repr(serial.histories(name))


@pytest.mark.slow
def test_jobs_have_the_bits_they_have_alone(train: Train, project: Path) -> None:
    """Every optimiser, loss and kind of activation, and jobs of several sizes, diverged ones among them."""
    words = (
        "init=kaiming,kaiming_leaky,shifted_relu",
        "optimizer=sgd,momentum,adam",
        "loss=cross_entropy,mse",
        "replicas=2,5",
        *TINY,
    )
    train("-m", "trainer=cpu", "hydra.callbacks.sweep.report=false", *words, "hydra.sweep.dir=multirun/serial")
    train(*BATCHED, *words, "hydra.launcher.workers=3", "hydra.sweep.dir=multirun/batched")
    found = Sweep(project, "batched")
    assert len(found.jobs) == 36
    assert_same(found, Sweep(project, "serial"))
    log = (project / "multirun" / "batched" / "7" / "train.log").read_text(encoding="utf-8")
    assert log.count("epoch 1/2") == log.count("epoch 2/2") == log.count("recorded as run") == 1


@pytest.mark.slow
def test_a_job_that_fails_is_its_own_failure(train: Train, project: Path) -> None:
    folder = project / "multirun" / "fails"
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "checkpoints").symlink_to("nowhere/at/all")
    done = train(*BATCHED, "init=kaiming,pytorch,normal", *TINY, "hydra.sweep.dir=multirun/fails", check=False)
    assert done.returncode == 1
    found = Sweep(project, "fails")
    assert found.statuses() == {
        "sweep": "FAILED",
        "init=kaiming": "FINISHED",
        "init=pytorch": "FAILED",
        "init=normal": "FINISHED",
    }
    assert found.parent.data.tags["end.reason"] == "a job failed"
    assert "init=pytorch  FAILED: " in done.stdout
    assert "3 of 3" in done.stdout
    assert "Traceback" not in done.stderr
    (folder / "1" / "checkpoints").unlink()
    train(*BATCHED, "init=kaiming,pytorch,normal", *TINY, "hydra.sweep.dir=multirun/fails", "resume=true")
    assert set(Sweep(project, "fails").statuses().values()) == {"FINISHED"}


@pytest.mark.faults(
    "`kill -9` or SIGTERM to a sweep whose jobs run in workers (`hydra/launcher=batched`)",
    "its jobs are KILLED, at the next start after `kill -9`; the same command with `resume=true` ends it: the same "
    "runs, the same bits",
)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_sweep_that_is_ended_goes_on(number: signal.Signals, train: Train, project: Path) -> None:
    words = ("init=kaiming,normal,lecun", "trainer.max_epochs=6", "replicas=2", "hydra.launcher.workers=2")
    if not (project / "multirun" / "whole").exists():
        train(*BATCHED, *words, "hydra.sweep.dir=multirun/whole")
    name = number.name
    folder = project / "multirun" / name
    with started(*BATCHED, *words, f"hydra.sweep.dir=multirun/{name}", cwd=project) as process:
        until(lambda: (folder / "0" / "checkpoints" / "last.ckpt").exists(), process)
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        assert process.wait(60) == {signal.SIGKILL: -9, signal.SIGTERM: 143}[number]
    assert psutil.wait_procs(family, timeout=20)[1] == []
    statuses = Sweep(project, name).statuses()
    if number != signal.SIGKILL:
        assert "RUNNING" not in statuses.values()
        assert statuses["sweep"] == statuses["init=kaiming"] == "KILLED"
        assert Sweep(project, name).jobs["init=kaiming"].data.tags["end.reason"] == number.name
        return
    train(*BATCHED, *words, f"hydra.sweep.dir=multirun/{name}", "resume=true")
    assert_same(Sweep(project, name), Sweep(project, "whole"))


@pytest.mark.faults(
    "`kill -9` of a worker (`hydra/launcher=batched`)",
    "the sweep ends, FAILED, and no job reads RUNNING; the same command with `resume=true` ends it, losing nothing",
)
def test_a_worker_is_lost(train: Train, project: Path) -> None:
    words = ("init=kaiming,normal,lecun", "trainer.max_epochs=6", "replicas=2", "hydra.launcher.workers=2")
    if not (project / "multirun" / "whole").exists():
        train(*BATCHED, *words, "hydra.sweep.dir=multirun/whole")
    folder = project / "multirun" / "lost"
    with started(*BATCHED, *words, "hydra.sweep.dir=multirun/lost", cwd=project) as process:
        until(lambda: (folder / "0" / "checkpoints" / "last.ckpt").exists(), process)
        os.kill(int(Sweep(project, "lost").jobs["init=kaiming"].data.tags["owner"].split()[1]), signal.SIGKILL)
        output = process.communicate(timeout=60)[0]
        assert process.returncode == 1
    assert "a worker process was ended, by a signal or for lack of memory" in output
    assert "Traceback" not in output
    found = Sweep(project, "lost").statuses()
    assert (found["sweep"], found["init=kaiming"]) == ("FAILED", "KILLED")
    assert "RUNNING" not in found.values()
    train(*BATCHED, *words, "hydra.sweep.dir=multirun/lost", "resume=true")
    assert_same(Sweep(project, "lost"), Sweep(project, "whole"))


@pytest.mark.slow
def test_a_terminal_shows_a_table_that_goes_away(project: Path) -> None:
    """Best first, while it lasts; then the table of results alone."""
    words = (*BATCHED, "init=kaiming,normal", "trainer.max_epochs=8", "replicas=2", "hydra.sweep.dir=multirun/table")
    text = on_a_terminal(words, project)
    assert " variant " in text.replace("\x1b[1m", " ").replace("\x1b[0m", " ")
    assert "0 of 2 jobs" in text
    assert "epoch 1/8" not in text  # no lines beside the table
    wiped = "\x1b[2K"
    assert 0 < text.rfind(wiped) < text.index("test accuracy")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("hydra.launcher.workers=0",), "hydra.launcher.workers is 0; expected a whole number of at least 1"),
        (("hydra.launcher.workers=many",), "hydra.launcher.workers is 'many'; expected a whole number of at least 1"),
        (("hydra.launcher.max_replicas=0",), "hydra.launcher.max_replicas is 0; expected a whole number of at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(words: tuple[str, ...], message: str, train: Train, project: Path) -> None:
    done = train(*BATCHED, "init=kaiming,normal", *words, "hydra.sweep.dir=multirun/refused", check=False)
    assert (done.returncode, done.stderr.strip()) == (1, f"error: {message}")
    assert not (project / "multirun" / "refused").exists()


@pytest.mark.slow
def test_odd_settings_work(train: Train, project: Path) -> None:
    """More workers than jobs; less room than one job takes; a single job."""
    for name, words in {
        "many": ("hydra.launcher.workers=16", "seed=1,2"),
        "little": ("hydra.launcher.max_replicas=1", "seed=1,2"),
        "single": ("seed=1",),
    }.items():
        train(*BATCHED, *TINY, "replicas=2", *words, f"hydra.sweep.dir=multirun/odd-{name}")
        assert set(Sweep(project, f"odd-{name}").statuses().values()) == {"FINISHED"}, name


@pytest.mark.parametrize(
    ("jobs", "workers", "cores", "threads"),
    [(4, 2, 2, [1] * 4), (3, 2, 2, [1, 1, 2]), (2, 2, 8, [4, 4]), (9, 8, 8, [1] * 8 + [8]), (5, 4, 2, [1] * 4 + [2])],
)
def test_the_last_jobs_share_the_cores_that_are_free(jobs: int, workers: int, cores: int, threads: list[int]) -> None:
    assert batched.threads_per_job(jobs, workers, cores) == threads


def task(replicas: int, size: int, device: str = "cpu") -> batched.Task:
    return batched.Task(0, OmegaConf.create(), "init=kaiming", replicas, 1, size, device)


def test_workers_are_as_many_as_there_is_room_for() -> None:
    cores, free = torch.get_num_threads(), psutil.virtual_memory().available
    small, large = task(8, 1000), task(64, free // 3)
    assert batched.count_workers([small] * 99, None, None) == cores
    assert batched.count_workers([small, task(8, 1000, "cuda")], None, None) == 1  # jobs that share a GPU
    assert batched.count_workers([small] * 99, 5, None) == 5
    assert batched.count_workers([small] * 3, 5, None) == 3
    assert batched.count_workers([small, large], 2, None) == 1
    assert batched.count_workers([small] * 9, 4, 25) == 3
    assert batched.count_workers([small] * 9, 4, 1) == 1  # a job that takes more than all the room runs alone


def test_networks_that_do_not_fit_are_refused_before_any_is_drawn(train: Train, project: Path) -> None:
    size = batched.bytes_per_replica([784, 50, 10], batch_size=64, probe=256)
    weights = 784 * 50 + 50 * 10
    assert 4 * 4 * weights < size < 4 * 4 * weights + 4 * 60 * 3000
    free = psutil.virtual_memory().available
    replicas = 2 * free // size
    words = (f"replicas={replicas}", "init=kaiming,normal", "hydra.sweep.dir=multirun/full")
    done = train(*BATCHED, *words, check=False)
    assert done.returncode == 1
    assert f"init=kaiming: {replicas} networks take about" in done.stderr
    assert "expected fewer replicas" in done.stderr
