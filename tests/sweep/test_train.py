"""`python train.py` as people type it: sweeps seen through the MLflow client, statuses, refusals, help."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, Started, Train, command, environment, started, wait_for
from hydra import compose, initialize_config_dir
from hydra.errors import CompactHydraException, HydraException
from mlflow import MlflowClient
from mlflow.entities import Run
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from initlab import load_sweep
from initlab.confidence_intervals import mean_ci95
from initlab.sweep import config as configs
from initlab.sweep import preflight
from initlab.sweep.callback import SweepCallback
from initlab.sweep.errors import concise_errors, exit_on_error
from initlab.training.build import build

SMOKE = ("experiment=smoke", "trainer=cpu")


@pytest.fixture(scope="module")
def client(project: Path) -> MlflowClient:
    """Of the store that `train.py -m init=kaiming,shifted_relu`, one epoch of all of MNIST, has made and filled."""
    command([sys.executable, "train.py", "-m", "init=kaiming,shifted_relu", *SMOKE], project)
    return MlflowClient(f"sqlite:///{project}/mlflow.db")


@pytest.fixture(scope="module")
def sweep(client: MlflowClient) -> tuple[Run, list[Run]]:
    """That sweep's parent run and its jobs."""
    parent = runs(client, "tags.sweep != ''")[0]
    return parent, runs(client, f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")


def runs(client: MlflowClient, query: str = "") -> list[Run]:
    experiment = client.get_experiment_by_name("initlab")
    return list(client.search_runs([experiment.experiment_id], query, order_by=["attributes.start_time ASC"]))


def artifacts(client: MlflowClient, run: Run, path: str | None = None) -> set[str]:
    return {item.path for item in client.list_artifacts(run.info.run_id, path)}


# The record


def test_a_sweep_is_a_parent_with_its_jobs_nested(sweep: tuple[Run, list[Run]]) -> None:
    parent, jobs = sweep
    names = ["init=kaiming", "init=shifted_relu"]
    assert [job.info.run_name for job in jobs] == names
    assert {run.info.status for run in [parent, *jobs]} == {"FINISHED"}


def test_metrics_have_the_documented_names_and_histories(sweep: tuple[Run, list[Run]], client: MlflowClient) -> None:
    """Each is the mean over replicas, `.ci95` beside it the interval; statistics from step 0 to the end."""
    _, (job, _) = sweep
    steps = 50_000 // 64
    once = {"val/loss", "val/accuracy", "test/accuracy"}
    per_layer = {"act_mean", "act_std", "preact_std", "grad_std", "weight_std", "update_ratio"}
    expected = (
        once | {"train/loss", "layer1/dead_fraction"} | {f"layer{n}/{name}" for n in (1, 2) for name in per_layer}
    )
    assert expected | {f"{name}.ci95" for name in expected} <= set(job.data.metrics)
    for name in sorted(expected):
        measured = [point.step for point in client.get_metric_history(job.info.run_id, name)]
        if name in once:
            assert measured == [steps]
        elif name == "train/loss":
            assert measured == [200, 400, 600, steps]
        elif "update_ratio" in name:
            assert measured == [0, 200, 400, 600]
        else:
            assert measured == [0, 200, 400, 600, steps]


def test_metrics_are_the_means_of_the_replica_table(sweep: tuple[Run, list[Run]], client: MlflowClient) -> None:
    _, (job, _) = sweep
    table = pd.read_csv(client.download_artifacts(job.info.run_id, "replicas.csv"))
    assert sorted(table["replica"].unique()) == [0, 1]
    for name in ("test/accuracy", "layer1/act_std", "layer2/grad_std"):
        history = {point.step: point.value for point in client.get_metric_history(job.info.run_id, name)}
        intervals = {point.step: point.value for point in client.get_metric_history(job.info.run_id, f"{name}.ci95")}
        for step, group in table.dropna(subset=name).groupby("step"):
            mean, half = mean_ci95(group[name].to_numpy())
            assert (history[step], intervals[step]) == pytest.approx((mean, half), rel=1e-6)


def test_statistics_at_step_0_are_the_lessons(sweep: tuple[Run, list[Run]], client: MlflowClient) -> None:
    """Kaiming: activations of mean about 0.55 and std about 0.82; minus 0.5, about 0.05 and the same std.

    Bands: of single draws of 50 units the mean spreads by 0.05 and the std by 0.06 (measured over 1,000).
    """
    _, jobs = sweep
    names = ("act_mean", "act_std")
    kaiming, shifted = (
        {name: client.get_metric_history(job.info.run_id, f"layer1/{name}")[0].value for name in names} for job in jobs
    )
    assert abs(kaiming["act_mean"] - 0.55) < 4 * 0.05 / np.sqrt(2)
    assert abs(kaiming["act_std"] - 0.82) < 4 * 0.06 / np.sqrt(2)
    # The same draws, shifted: float32 rounding apart.
    assert shifted["act_mean"] == pytest.approx(kaiming["act_mean"] - 0.5, abs=1e-5)
    assert shifted["act_std"] == pytest.approx(kaiming["act_std"], rel=1e-5)


def test_tags_tell_where_a_run_comes_from(sweep: tuple[Run, list[Run]], project: Path) -> None:
    parent, jobs = sweep
    commit = command(["git", "rev-parse", "HEAD"], project).stdout
    for run in [parent, *jobs]:
        assert run.data.tags["git.commit"] == commit.strip()
        assert run.data.tags["git.dirty"] == "False"
        assert len(run.data.tags["dvc.lock.md5"]) == 32
    first, second = (job.data.tags for job in jobs)
    assert first["data.md5"] == OmegaConf.load(project / "data.dvc").outs[0].md5
    assert first["seed"] == "0"
    for tag in ("config.sha256", "weights.sha256"):
        assert len(first[tag]) == 64
        assert first[tag] != second[tag]


def test_a_sweep_has_the_best_results_of_its_jobs(sweep: tuple[Run, list[Run]]) -> None:
    """And their numbers, and the params that they share; the charts of layers are the jobs' alone."""
    parent, jobs = sweep
    best = max(jobs, key=lambda job: job.data.metrics["val/accuracy"]).data.metrics
    names = [f"{name}{end}" for name in ("test/accuracy", "val/accuracy", "val/loss") for end in ("", ".ci95")]
    numbers = {"jobs": 2, "replicas": 4, "diverged": 0}
    assert parent.data.metrics == {name: best[name] for name in names} | numbers
    first, second = (set(job.data.params.items()) for job in jobs)
    assert parent.data.params == dict(first & second)
    assert parent.data.params["replicas"] == "2"
    assert "activation.shift" not in parent.data.params


def test_params_are_the_whole_config(sweep: tuple[Run, list[Run]], client: MlflowClient) -> None:
    _, (_, job) = sweep
    config = OmegaConf.load(client.download_artifacts(job.info.run_id, "config.yaml"))
    assert config.activation.shift == 0.5
    assert "tracking" not in config  # an address may hold a password
    params = job.data.params
    assert params["activation.shift"] == "0.5"
    assert params["optimizer._target_"] == "torch.optim.SGD"
    assert params["model.hidden.0"] == "50"
    assert set(params) == set(leaves(OmegaConf.to_container(config)))
    for key, value in params.items():
        found = OmegaConf.select(config, re.sub(r"\.(\d+)", r"[\1]", key))
        assert value == (found if isinstance(found, str) else json.dumps(found))


def leaves(node: object, path: str = "") -> Iterator[str]:
    """The dotted paths of all values that are neither a mapping nor a list."""
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path


def test_artifacts(sweep: tuple[Run, list[Run]], client: MlflowClient) -> None:
    parent, (job, _) = sweep
    assert artifacts(client, job) == {
        "checkpoints",
        "config.yaml",
        "provenance.json",
        "replicas.csv",
        "tensors.safetensors",
        "theory.json",
    }
    assert artifacts(client, job, "checkpoints") == {"checkpoints/best.ckpt", "checkpoints/last.ckpt"}
    last = torch.load(client.download_artifacts(job.info.run_id, "checkpoints/last.ckpt"), weights_only=True)
    assert last["global_step"] == 50_000 // 64
    assert last["state_dict"]["weights.0"].shape == (2, 50, 784)
    comparison = pd.read_csv(client.download_artifacts(parent.info.run_id, "comparison.csv"))
    assert sorted(comparison["init"]) == ["kaiming", "shifted_relu"]
    assert comparison["test/accuracy"].is_monotonic_decreasing
    assert comparison.set_index("init")["test/accuracy"]["kaiming"] == pytest.approx(job.data.metrics["test/accuracy"])
    assert {"figures", "index.html"} < artifacts(client, parent)
    assert "figures/final_accuracy.svg" in artifacts(client, parent, "figures")


def test_a_sweep_is_loaded_from_its_id_or_from_its_folder(sweep: tuple[Run, list[Run]], client: MlflowClient) -> None:
    """Tables of the same values and types; of an id, they come out of the store."""
    parent, (job, _) = sweep
    by_id = load_sweep(parent.info.run_id, client.tracking_uri)
    by_folder = load_sweep(parent.data.tags["sweep"])
    for name in ("runs", "metrics", "summary", "layers"):
        pd.testing.assert_frame_equal(getattr(by_id, name), getattr(by_folder, name))
    assert by_id.figures == by_folder.figures
    assert set(by_id.runs["activation.shift"]) == {0, 0.5}
    with pytest.raises(OSError, match="is not a sweep: it has no finished jobs nested under it"):
        load_sweep(job.info.run_id, client.tracking_uri)
    with pytest.raises(OSError, match=f"mlflow.db holds no run {'0' * 32}"):
        load_sweep("0" * 32, client.tracking_uri)


@pytest.mark.slow
def test_a_report_from_the_id_of_a_sweep_or_from_its_folder(
    sweep: tuple[Run, list[Run]], client: MlflowClient, project: Path
) -> None:
    """The page that the sweep left, to the byte; from the id, everything comes out of the store."""
    parent, (job, _) = sweep
    page = Path(client.download_artifacts(parent.info.run_id, "index.html")).read_bytes()
    by_id = report(project, parent.info.run_id)
    assert f"copied to the artifacts of run {parent.info.run_id}" in by_id.stdout
    folder = Path("multirun", parent.info.run_id)
    assert (project / folder / "report" / "index.html").read_bytes() == page
    assert "another" in report(project, str(folder), "--output", "another").stdout
    assert (project / "another" / "index.html").read_bytes() == page

    for what, message in {
        job.info.run_id: "is not a sweep: it has no finished jobs nested under it",
        "0" * 32: f"mlflow.db holds no run {'0' * 32}",
        "nowhere": "nowhere is neither a folder nor the id of a run",
        "conf": "conf holds no replicas.csv, which a sweep leaves in its folder",
    }.items():
        done = report(project, what, check=False)
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
        assert message in done.stderr


def report(project: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return command(["initlab", "report", *arguments], project, check=check)


def test_the_data_set_is_the_runs_input(sweep: tuple[Run, list[Run]], project: Path) -> None:
    _, (job, _) = sweep
    (data,) = job.inputs.dataset_inputs
    assert data.dataset.name == "mnist"
    assert data.dataset.digest + ".dir" == OmegaConf.load(project / "data.dvc").outs[0].md5
    assert json.loads(data.dataset.profile)["train"] == 50_000


def test_same_seed_twice_is_bitwise_the_same(sweep: tuple[Run, list[Run]], client: MlflowClient, train: Train) -> None:
    """Alone or in a sweep: the hash of the weights, and every point of every metric, to the last bit."""
    _, (job, _) = sweep
    train(*SMOKE)
    alone = runs(client)[-1]
    assert "mlflow.parentRunId" not in alone.data.tags
    for tag in ("weights.sha256", "config.sha256"):
        assert alone.data.tags[tag] == job.data.tags[tag]
    assert alone.data.metrics == job.data.metrics
    for name in job.data.metrics:
        first, second = (
            [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]
            for run in (job, alone)
        )
        assert first == second


def test_models_and_losses(train: Train, client: MlflowClient) -> None:
    """Eight hidden layers, and the lesson's squared error, train too: better than guessing after one epoch."""
    train("-m", "model=shallow,deep", "loss=cross_entropy,mse", "hydra.callbacks.sweep.report=false", *SMOKE)
    found = {
        (model, loss): run.data.metrics
        for run in runs(client, "tags.overrides LIKE '%model=%'")
        for model in ("shallow", "deep")
        for loss in ("cross_entropy", "mse")
        if f"model={model}" in run.info.run_name and f"loss={loss}" in run.info.run_name
    }
    assert len(found) == 4
    assert all(metrics["test/accuracy"] > 0.2 for metrics in found.values())
    assert "layer9/grad_std" in found["deep", "mse"]


# How runs end


@contextmanager
def under_way(*arguments: str, cwd: Path) -> Iterator[Started]:
    """A training that would take minutes, once its first epoch is over."""
    with started(*arguments, "trainer=cpu", "replicas=1", "trainer.max_epochs=5000", cwd=cwd) as process:
        wait_for("epoch 1/", process)
        yield process


@pytest.mark.faults(
    "SIGTERM or Ctrl-C while a run trains",
    "KILLED with the signal as `end.reason`, exit code 143 or 130",
)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_run_as_killed(number: signal.Signals, code: int, project: Path, client: MlflowClient) -> None:
    with under_way(f"seed={code}", cwd=project) as process:
        process.send_signal(number)
        assert process.wait(60) == code
    (run,) = runs(client, f"tags.seed = '{code}'")
    assert run.info.status == "KILLED"
    assert run.data.tags["end.reason"] == number.name


def handles_sigterm(process: Started) -> bool:
    """Whether it has put our handlers in place: Python itself leaves SIGTERM alone."""
    caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8"))
    return caught is not None and bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.faults(
    "Ctrl-C while libraries are imported",
    "no run, no stack trace, exit code 130",
)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="tells the moment from /proc")
@pytest.mark.parametrize("seconds", [0.0, 0.5, 1.0])
def test_ctrl_c_before_the_training_leaves_no_run(seconds: float, project: Path, client: MlflowClient) -> None:
    """While libraries are imported, which may swallow it: no stack trace, nothing recorded, and not a success."""
    before = len(runs(client))
    words = [sys.executable, "train.py", "seed=99", "trainer=cpu", "trainer.max_epochs=5000"]
    process = subprocess.Popen(words, cwd=project, env=environment(), stderr=subprocess.PIPE, encoding="utf-8")
    while not handles_sigterm(process):
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert len(runs(client)) == before


@pytest.mark.faults(
    "SIGTERM while a sweep trains",
    "the job and its parent are KILLED, the jobs after it do not start",
)
def test_a_killed_sweep_ends_its_parent_too(project: Path, client: MlflowClient) -> None:
    with under_way("-m", "seed=1430,1431", cwd=project) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
    (job,) = runs(client, "tags.seed = '1430'")
    parent = client.get_run(job.data.tags["mlflow.parentRunId"])
    assert (job.info.status, parent.info.status) == ("KILLED", "KILLED")
    assert runs(client, "tags.seed = '1431'") == []


@pytest.mark.faults(
    "`kill -9`, and another run starts on this host",
    "the first, which reads RUNNING, is marked KILLED",
)
def test_kill_9_is_marked_on_the_next_start(project: Path, client: MlflowClient, train: Train) -> None:
    with under_way("seed=9", cwd=project) as process:
        process.send_signal(signal.SIGKILL)
        process.wait(60)
        (run,) = runs(client, "tags.seed = '9'")
        assert run.info.status == "RUNNING"
    train("seed=10", *SMOKE)
    (run,) = runs(client, "tags.seed = '9'")
    assert run.info.status == "KILLED"
    assert run.data.tags["end.reason"] == "its process is gone"
    assert len(client.get_metric_history(run.info.run_id, "val/accuracy")) >= 1


@pytest.mark.faults(
    "the checkpoint folder can't be written",
    "FAILED with the reason as a tag and the traceback as an artifact, exit code 1",
)
def test_an_error_while_training_ends_a_run_as_failed(project: Path, client: MlflowClient, train: Train) -> None:
    """Here the checkpoints' folder is a link to nowhere."""
    folder = project / "outputs" / "blocked"
    folder.mkdir(parents=True)
    (folder / "checkpoints").symlink_to("nowhere/at/all")
    done = train("hydra.run.dir=outputs/blocked", "seed=11", *SMOKE, check=False)
    assert done.returncode == 1
    (run,) = runs(client, "tags.seed = '11'")
    assert run.info.status == "FAILED"
    assert "checkpoints" in run.data.tags["end.reason"]
    trace = Path(client.download_artifacts(run.info.run_id, "traceback.txt")).read_text(encoding="utf-8")
    assert trace.startswith("Traceback")
    assert run.data.tags["end.reason"] in trace


@pytest.mark.faults(
    "a job of a sweep fails",
    "that job and the parent are FAILED with the reason; the other jobs run, and are reported on",
)
def test_a_failed_job_fails_its_sweep_but_not_the_others(project: Path, client: MlflowClient, train: Train) -> None:
    folder = project / "multirun" / "blocked" / "0"
    folder.mkdir(parents=True)
    (folder / "checkpoints").symlink_to("nowhere/at/all")
    done = train("-m", "seed=12", "replicas=2,1", "hydra.sweep.dir=multirun/blocked", *SMOKE, check=False)
    assert done.returncode == 1
    assert "checkpoints" in done.stderr
    assert "Traceback" not in done.stderr
    failed, job = runs(client, "tags.seed = '12'")
    assert failed.info.status == "FAILED"
    assert "checkpoints" in failed.data.tags["end.reason"]
    assert job.info.status == "FINISHED"
    assert "test/accuracy.ci95" not in job.data.metrics  # one replica has no interval
    parent = client.get_run(job.data.tags["mlflow.parentRunId"])
    assert parent.info.status == "FAILED"
    assert "comparison.csv" in artifacts(client, parent)  # of the job that did finish


# Bad input


def test_a_swept_value_is_refused_before_the_first_job(project: Path, client: MlflowClient, train: Train) -> None:
    before = sorted(project.iterdir()), len(runs(client))
    done = train("-m", "replicas=2,1,0", "hydra.sweep.dir=refused", *SMOKE, check=False)
    assert done.returncode == 1
    assert done.stderr == "error: replicas is 0; expected a whole number of at least 1\n"
    assert (sorted(project.iterdir()), len(runs(client))) == before


def swept(*words: str, **params: str) -> DictConfig:
    """The configuration that `train.py -m` with these words, and these of the sweeper's parameters, begins with."""
    config = compose("config", return_hydra_config=True)
    with open_dict(config), read_write(config.hydra):
        config.hydra.overrides.task = list(words)
        config.hydra.sweeper.params = params
    return config


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["init=kaiming,kaimming"], "Could not find 'init/kaimming'"),
        (["replicas=1,2", "model=shallow,deep", "optimizer.lr=0.1,nan"], "optimizer: lr is nan"),
        (["data.batch_size=range(40000,60001,20000)"], "batch_size is 60000"),
        (["seed=range(0,0)"], r"seed=range\(0,0\) has no value"),
        (["init=glob(zzz*)"], r"init=glob\(zzz\*\) has no value"),
        (["tracking.experiment=a,b"], "tracking.experiment=a,b: a sweep has one record"),
        (["allow=code,data"], "allow=code,data: a sweep has one record"),
    ],
)
def test_each_swept_value_is_tried(words: list[str], message: str, normalized: Path, tmp_path: Path) -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = swept(f"data.folder={normalized}", "data.pin=null", "trainer=cpu", *words)
        with pytest.raises((ValueError, HydraException), match=message):
            preflight.check_sweep(config, tmp_path)


@pytest.mark.parametrize(
    ("words", "params", "jobs", "shared"),
    [
        (["init=kaiming,normal", "seed=0,1", "replicas=2", "model=deep"], {}, 4, ["replicas"]),
        (["seed=3", "seed=0,1"], {}, 2, []),
        (["replicas=2"], {"init": "kaiming,normal", "seed": "range(3)"}, 6, ["replicas"]),
        (["optimizer.lr=interval(0,1)"], {}, 0, []),
    ],
)
def test_what_a_sweep_knows_of_its_jobs(
    words: list[str], params: dict[str, str], jobs: int, shared: list[str], tmp_path: Path
) -> None:
    """How many there are, and what is left out of their names."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = swept(*words, **params)
        assert configs.count_jobs(config) == jobs
        with open_dict(config), read_write(config.hydra):
            config.hydra.sweep.dir = str(tmp_path)
        configs.write_shared_keys(config)
        assert json.loads((tmp_path / "sweep.json").read_text(encoding="utf-8")) == {"shared": shared}


@pytest.mark.faults(
    "a bad value, a folder that can't be written, a store that is not there: one way each",
    "refused in one line before anything is written",
)
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("replicas=0", "replicas is 0; expected a whole number of at least 1"),
        ("replicas=many", "replicas is 'many'; expected a whole number"),
        ("matmul_precision=low", "matmul_precision is 'low'; expected one of highest, high, medium"),
        ("seed=-1", "seed is -1; expected a whole number of at least 0"),
        ("model.hidden=[50,-5]", "width is -5; expected a whole number of at least 1"),
        ("optimizer.lr=-0.1", "optimizer: Invalid learning rate: -0.1"),
        ("activation.leak=steep", "activation: leak is 'steep'; expected a finite number"),
        (
            "activation.shift=1e18",
            "activation: shift is 1e+18; expected a smaller one: f(z) - shift is constant in float32",
        ),
        ("+init.activation.leak=0.1", "init.activation is not known; the activation is a choice of its own"),
        (["init=critical", "activation=softplus"], "Softplus has no critical point at any sigma_b"),
        (["init=critical", "init.weights.sigma_b=0.2"], "has no critical point there, the nearest is sigma_b=0 with"),
        ("init.weights.gain=lots", "init.weights: gain is 'lots'; expected a positive number or auto"),
        ("init.weights.mode=sideways", "init.weights: mode is 'sideways'; expected one of fan_in, fan_out"),
        ("+loss.classes=5", "loss.classes is 5; expected no such key: the data have the classes"),
        ("+loss.outputs=5", "loss: CrossEntropy.__init__() got an unexpected keyword argument 'outputs'"),
        ("data.batch_size=50001", "batch_size is 50001; there are 50,000 training images"),
        (
            "trainer.devices=100",
            "trainer.devices is 100; expected a number that divides 8 replicas: 1, 2, 4, 8",
        ),
        ("trainer.callbacks=[5]", "trainer.callbacks is 5; expected pytorch_lightning"),
        ("stats=5", "stats is 5; expected `every` and `probe`"),
        ("seed=${seed}", "seed: Recursive interpolation detected"),
        ("trainer.max_epochs=-3", "trainer: `max_epochs` must be a non-negative integer or -1"),
        ("trainer.max_epochs=0", "trainer.max_epochs is 0; expected at least 1"),
        ("trainer.max_epochs=0.5", "trainer.max_epochs is 0.5; expected at least 1"),
        ("model.hidden=100", "model.hidden is 100; expected a list of widths, [100] for one layer"),
        ("data.batch_size=0", "batch_size is 0"),
        ("data.folder=null", "data.folder is None; expected the name of a folder"),
        ("data.folder=nowhere", "/nowhere holds no normalised data; in the project's root, make it with: dvc repro"),
        ("tracking.uri=http://127.0.0.1:9", "no MLflow store answers at 127.0.0.1:9"),
        ("tracking.uri=postgresql://user:secret@127.0.0.1:9/x", "no MLflow store answers at 127.0.0.1:9"),
        (
            "tracking.uri=postgres://user:secret@127.0.0.1/x",
            "tracking.uri begins with 'postgres'; expected sqlite:///FILE",
        ),
        ("tracking.uri=nonsense", "tracking.uri begins with 'nonsense'"),
        ("tracking.uri='sqlite:///what?/mlflow.db'", "tracking.uri is 'sqlite:///what?/mlflow.db'; expected sqlite"),
        ("allow=code", "allow is 'code'; expected a list of code, packages, data, such as [code]"),
        ("allow=[machine]", "allow is ['machine']; expected a list of code, packages, data"),
        ("allow=[[code]]", "allow is [['code']]; expected a list"),
        (["trainer.devices=2", "replicas=many"], "replicas is 'many'; expected a whole number of at least 1"),
        ("tracking.uri=sqlite:////proc/none/mlflow.db", "/proc/none/mlflow.db can't be written"),
        ("data.pin=none.dvc", "data.pin is 'none.dvc'; expected null, or the name of a .dvc file that is here"),
        ("hydra.run.dir=/proc/none", "/proc/none can't be written: No such file or directory"),
        ("hydra.run.dir=/proc", "/proc can't be written"),
        ("hydra.run.dir=README.md/x", "README.md/x can't be written: Not a directory"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    override: str | list[str], message: str, normalized: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the hook that Hydra calls first; nothing is left behind."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text("", encoding="utf-8")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        words = [override] if isinstance(override, str) else override
        overrides = [f"data.folder={normalized}", "data.pin=null", "trainer=cpu", *words]
        config = compose("config", overrides, return_hydra_config=True)
    with pytest.raises(SystemExit) as refused:
        SweepCallback(folder="").on_run_start(config)
    assert message in str(refused.value)
    assert "secret" not in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_a_refusal_takes_away_only_what_it_made(normalized: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(SystemExit), exit_on_error(), preflight.created_folder(tmp_path / "mine" / "a" / "b"):
        raise ValueError("no")
    assert [path.name for path in tmp_path.rglob("*")] == ["mine"]


@pytest.mark.faults(
    "a folder that holds an earlier run is named for a new one",
    "refused; the earlier run stays",
)
def test_a_folder_with_checkpoints_is_not_written_to_again(train: Train, client: MlflowClient) -> None:
    before = len(runs(client))
    train("hydra.run.dir=outputs/once", *SMOKE)
    done = train("hydra.run.dir=outputs/once", *SMOKE, check=False)
    assert done.returncode == 1
    assert "outputs/once holds an earlier run; name another folder, or continue it with resume=true" in done.stderr
    assert len(runs(client)) == before + 1


def test_where_a_run_is_recorded_is_in_no_record(train: Train, client: MlflowClient, project: Path) -> None:
    """An address may hold a password: it is not in names, tags, params or tables; `~` overrides are no trouble."""
    train("-m", f"tracking.uri=sqlite:///{project}/mlflow.db", "seed=13", "~trainer.enable_model_summary", *SMOKE)
    (job,) = runs(client, "tags.seed = '13'")
    parent = client.get_run(job.data.tags["mlflow.parentRunId"])
    for run in (job, parent):
        assert "tracking" not in f"{run.info.run_name} {run.data.tags} {run.data.params}"
    table = Path(client.download_artifacts(parent.info.run_id, "comparison.csv")).read_text(encoding="utf-8")
    assert "tracking" not in table
    assert "enable_model_summary" in table


def test_a_refusal_is_one_line_on_the_terminal(train: Train, project: Path) -> None:
    before = sorted(project.iterdir())
    done = train("replicas=0", "hydra.run.dir=refused", check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: replicas is 0; expected a whole number of at least 1\n"
    assert sorted(project.iterdir()) == before


def test_an_unknown_variant_lists_the_variants(train: Train) -> None:
    done = train("init=kaimming", check=False)
    assert done.returncode == 1
    assert "Could not find 'init/kaimming'" in done.stderr
    assert "shifted_relu" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["init=kaiming,shifted_relu"], 'several values of init: add -m, as in python train.py -m "init=kaiming,sh'),
        (["init=glob(k*)"], 'several values of init: add -m, as in python train.py -m "init=glob(k*)"'),
        (["init=kaiming,"], "init=kaiming, ends with a comma; expected another value after it, without a space"),
        (["-m", "init=kaiming,", "lecun"], "init=kaiming, ends with a comma; expected another value"),
        (
            ["init.weights.images=3"],
            "init.weights.images is not in the configuration; if it is a new key and no misspelling",
        ),
        (["init.weights.images=3"], ": +init.weights.images=3"),
        (["-m", "init=kaiming,shifted_relu", "init.weights.images=3"], ": ++init.weights.images=3"),
        (["-m", "init=kaiming,xavier", "init.weights.leak=1"], ": ++init.weights.leak=1"),  # kaiming has it
        (["kaiming"], "kaiming can't be read; expected KEY=VALUE"),
        (["model.hidden=[100"], 'model.hidden=[100 can\'t be read; expected KEY=VALUE, "KEY=[1, 2]" with spaces'),
    ],
)
def test_what_to_type_instead_is_said(words: list[str], hint: str, train: Train) -> None:
    """After Hydra's own words, on the last line."""
    done = train(*words, check=False)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("hint: ")
    assert hint in last
    assert "Traceback" not in done.stderr


def test_paths_are_relative_to_the_project(project: Path, tmp_path: Path) -> None:
    """Wherever the command is typed."""
    script = str(project / "train.py")
    done = command([sys.executable, script, "--cfg", "job", "--resolve", "--package", "tracking"], tmp_path)
    assert f"uri: sqlite:///{project}/mlflow.db" in done.stdout
    done = command([sys.executable, script, "data.folder=nowhere"], tmp_path, check=False)
    assert f"{project}/nowhere holds no normalised data" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_misspelt_key_is_refused(train: Train) -> None:
    done = train("replica=3", check=False)
    assert done.returncode == 1
    assert "Key 'replica' is not in struct" in done.stderr
    assert "Traceback" not in done.stderr


# Configuration


GROUPS = {
    f"{path.parent.relative_to(ROOT / 'conf')}={path.stem}"
    for path in (ROOT / "conf").rglob("*.yaml")
    if path.parent != ROOT / "conf" and "hydra" not in path.parts and "source" not in path.parts
}


@pytest.mark.parametrize("choice", sorted(GROUPS))
def test_every_file_of_every_group_composes_and_makes_its_objects(
    choice: str, normalized: Path, tmp_path: Path
) -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", [choice, f"data.folder={normalized}"])
    if choice == "trainer=gpu" and not torch.cuda.is_available():
        with (
            pytest.raises(CompactHydraException, match="trainer: No supported gpu backend found"),
            concise_errors(),
        ):
            build(config, tmp_path)
        return
    trainer, network, images, *_ = build(config, tmp_path)
    assert trainer.max_epochs == config.trainer.max_epochs
    assert network.hidden == config.model.hidden
    assert images.folder == normalized


def test_a_preset_may_be_overridden(normalized: Path) -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        assert compose("config", ["experiment=smoke"]).replicas == 2
        assert compose("config", ["experiment=smoke", "replicas=3"]).replicas == 3


@pytest.mark.parametrize("name", ['Teacher\'s "files"', "back\\slash", "ends\\", "it\\'s", "100% #a, b=[c] {d} $e"])
def test_jobs_are_composed_with_the_folder_of_their_sweep(name: str) -> None:
    """Of whatever characters: the override that jobs get is read by Hydra's grammar."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", return_hydra_config=True)
        configs.set_output_dir(Path("/projects", name), config, "sweep")
        again = compose("config", list(config.hydra.overrides.hydra), return_hydra_config=True)
    assert config.hydra.sweep.dir == again.hydra.sweep.dir == f"/projects/{name}"


def test_what_a_sweep_prints(project: Path, client: MlflowClient) -> None:
    """How far it is, a table, best first, and how to look at it; MLflow shows the result with the parent."""
    words = ["-m", "init=lecun,normal,xavier", "experiment=smoke", "trainer=cpu", "model.hidden=[20]"]
    done = command([sys.executable, "train.py", *words], project)
    lines = done.stdout.splitlines()
    assert "job 1 of 3" in lines
    assert [line for line in lines if line.startswith("job 3 of 3, about ")]
    head, *rows = lines[lines.index(next(line for line in lines if line.startswith("variant"))) :][:4]
    assert head.split() == ["variant", "test", "accuracy", "val/loss", "time"]
    assert {row.split()[0] for row in rows} == {"lecun", "normal", "xavier"}
    assert rows[2].startswith("normal")  # far behind the others after one epoch
    assert all(re.search(r"\d s$", row) for row in rows)
    parent = [run for run in runs(client) if "sweep" in run.data.tags][-1]
    address = f"http://127.0.0.1:5000/#/experiments/{parent.info.experiment_id}/runs/{parent.info.run_id}"
    assert lines[-4:-1] == [
        f"recorded as sweep {parent.info.run_id}",
        "to look at it: mlflow ui, then",
        f"  {address}?workflowType=machine_learning",
    ]
    note = parent.data.tags["mlflow.note.content"]
    assert "`normal`" in note.partition("|")[0]  # the findings, before the table
    assert "| normal |" in note
    assert done.stderr == ""


@pytest.mark.slow
def test_a_sweep_says_nothing_if_the_log_is_off(project: Path) -> None:
    words = ["-m", "init=lecun", "experiment=smoke", "trainer=cpu", "model.hidden=[20]"]
    off = ["hydra/job_logging=disabled", "hydra/hydra_logging=disabled"]
    done = command([sys.executable, "train.py", *words, *off], project)
    assert (done.stdout, done.stderr) == ("", "")


def test_help_and_config_need_no_torch(project: Path) -> None:
    for words in (["--help"], ["--cfg", "job"], ["--info", "defaults"]):
        done = command([sys.executable, "-X", "importtime", "train.py", *words], project)
        modules = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
        assert "hydra" in modules
        assert not modules & {"torch", "pytorch_lightning", "mlflow", "pandas", "numpy"}


def test_help_lists_what_there_is(train: Train) -> None:
    text = train("--help").stdout
    assert "shifted_relu" in text
    assert "python train.py -m init=kaiming,shifted_relu" in text
    assert 'eval "$(python train.py -sc install=bash)"' in text


def test_tab_completes_variants(project: Path) -> None:
    """As the shell asks, after `python train.py init=s<Tab>`."""
    line = "python train.py init=s"
    env = environment() | {"COMP_LINE": line, "COMP_POINT": str(len(line))}
    words = [sys.executable, "train.py", "-sc", "query=bash"]
    done = subprocess.run(words, cwd=project, env=env, capture_output=True, encoding="utf-8", timeout=60, check=True)
    assert done.stdout.split() == ["init=shifted_relu", "init=sparse", "init=standard"]
