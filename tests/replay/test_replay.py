"""A recorded run is run again: to the bit, or with what differs; and nothing in a record runs what it should not."""

import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT, command, environment
from hydra import compose, initialize_config_dir
from mlflow import MlflowClient
from mlflow.entities import Run
from omegaconf import OmegaConf

from initlab.replay.command import checked, compared, replay_all
from initlab.replay.safe_config import ReplayError, read_config
from initlab.sweep import config as configs
from initlab.tracking.params import sha256
from initlab.tracking.recorded_run import read_run

GROUPS = sorted(
    f"{path.parent.relative_to(ROOT / 'conf')}={path.stem}"
    for path in (ROOT / "conf").rglob("*.yaml")
    if path.parent != ROOT / "conf" and "hydra" not in path.parts and "source" not in path.parts
)


@pytest.fixture(scope="module")
def recorded(project: Path) -> tuple[MlflowClient, Run, list[Run]]:
    """A sweep of two, and its parent; seen through a client of the store."""
    words = ("-m", "init=kaiming,normal", "experiment=smoke", "trainer=cpu", "hydra.callbacks.sweep.report=false")
    command([sys.executable, "train.py", *words], project)
    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    first, second, parent = client.search_runs(["1"])
    return client, parent, [second, first]


@pytest.fixture(autouse=True)
def _here(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def replay(run_id: str | None = None, parent_id: str | None = None, allow: Sequence[str] = ()) -> int:
    """The exit code of `initlab replay`, in the project."""
    return 0 if replay_all(f"sqlite:///{Path.cwd()}/mlflow.db", run_id, parent_id, allow=allow) else 1


def artifact(client: MlflowClient, run: Run, name: str) -> Path:
    """Where the store keeps it."""
    return Path(run.info.artifact_uri.removeprefix("file://")) / name


def test_a_run_comes_out_the_same(
    recorded: tuple[MlflowClient, Run, list[Run]], capsys: pytest.CaptureFixture[str]
) -> None:
    client, _, (job, _) = recorded
    assert replay(job.info.run_id) == 0
    output = capsys.readouterr().out
    assert "as recorded: code, data, packages, machine" in output
    assert "identical, to the bit: weights, " in output
    again = client.search_runs(["1"])[0]
    assert f"recorded as run {again.info.run_id}" in output
    assert again.data.tags["replay.of"] == job.info.run_id
    assert again.data.tags["replay.verdict"] == "identical"
    assert f"/runs/{job.info.run_id}" in again.data.tags["mlflow.note.content"]
    assert again.data.tags["weights.sha256"] == job.data.tags["weights.sha256"]
    assert again.data.metrics == job.data.metrics


def test_a_sweep_comes_out_the_same(
    recorded: tuple[MlflowClient, Run, list[Run]], capsys: pytest.CaptureFixture[str]
) -> None:
    client, parent, jobs = recorded
    assert replay(parent_id=parent.info.run_id) == 0
    assert "2 of 2 runs came out the same, to the bit" in capsys.readouterr().out
    again = client.search_runs(["1"], f"tags.`replay.of` = '{parent.info.run_id}'")[0]
    children = client.search_runs(["1"], f"tags.`mlflow.parentRunId` = '{again.info.run_id}'")
    assert again.info.status == "FINISHED"
    assert again.data.metrics == parent.data.metrics
    assert again.data.params == parent.data.params != {}
    assert {child.data.tags["replay.of"] for child in children} == {job.info.run_id for job in jobs}


def test_a_difference_is_found_to_the_last_bit(
    recorded: tuple[MlflowClient, Run, list[Run]], project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One point of 348 is another, by less than float32 could tell."""
    client, _, (_, job) = recorded
    where = f"key = 'train/loss' AND step = 400 AND run_uuid = '{job.info.run_id}'"
    with sqlite3.connect(project / "mlflow.db") as database:
        assert database.execute(f"UPDATE metrics SET value = value + 1e-9 WHERE {where}").rowcount == 1
    assert replay(job.info.run_id) == 1
    with sqlite3.connect(project / "mlflow.db") as database:
        database.execute(f"UPDATE metrics SET value = value - 1e-9 WHERE {where}")
    line, verdict = [line for line in capsys.readouterr().out.splitlines() if "train/loss" in line]
    assert verdict.startswith(f"differs from run {job.info.run_id}: ")
    assert line.split() == ["train/loss", "4", "1", "step", "400", "1e-09", "at", "step", "400"]
    assert client.search_runs(["1"])[0].data.tags["replay.verdict"] == "differs"


def test_other_vector_units_come_out_within_rounding_and_chance(
    recorded: tuple[MlflowClient, Run, list[Run]], project: Path
) -> None:
    client, _, (job, _) = recorded
    units = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE"}
    words = ["initlab", "replay", job.info.run_id]
    done = subprocess.run(words, cwd=project, env=environment() | units, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert "machine differs: vector units: recorded " in done.stdout
    assert re.search(r"^differs from run \w+: weights", done.stdout, re.MULTILINE)
    assert done.stdout.splitlines()[-1].startswith("reproduced: 1 of 1 runs (step 0 within ")
    assert client.search_runs(["1"])[0].data.tags["replay.verdict"] == "reproduced"


def test_a_difference_says_at_which_step_it_begins(recorded: tuple[MlflowClient, Run, list[Run]]) -> None:
    _, _, (job, _) = recorded
    run = read_run(f"sqlite:///{Path.cwd()}/mlflow.db", job.info.run_id)
    config, _, shape = checked(run, [])
    table = pd.read_csv(StringIO(run.replicas))
    table.loc[table["step"] == 0, "layer1/weight_std"] *= 0.995
    said = compared(run, run._replace(replicas=table.to_csv(index=False)), config, shape)
    assert said == f"NOT reproduced: {run.name}: layer 1 weight_std at step 0 differs by 0.5 %"
    assert compared(run, run, config, shape) == "reproduced: 1 of 1 runs, to the bit"


@pytest.fixture
def origin(recorded: tuple[MlflowClient, Run, list[Run]]) -> Iterator[Path]:
    """provenance.json of the first job, which a test may change."""
    client, _, (job, _) = recorded
    file = artifact(client, job, "provenance.json")
    text = file.read_text(encoding="utf-8")
    yield file
    file.write_text(text, encoding="utf-8")


@pytest.mark.parametrize(("part", "name"), [("code", "nn/mlp.py"), ("data", "train")])
def test_other_code_or_data_is_refused_unless_allowed(
    recorded: tuple[MlflowClient, Run, list[Run]],
    origin: Path,
    part: str,
    name: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    client, _, (job, _) = recorded
    found = json.loads(origin.read_text(encoding="utf-8"))
    here = found[part][name]
    found[part][name] = "0" * 64
    origin.write_text(json.dumps(found), encoding="utf-8")
    before = len(client.search_runs(["1"]))
    with pytest.raises(ReplayError, match=f"was made with other {part} .*") as refused:
        replay(job.info.run_id)
    assert f"\n  {part}: {name}: recorded 00000000, here {here[:8]}\n" in str(refused.value)
    assert str(refused.value).endswith(f"--allow {part}")
    assert len(client.search_runs(["1"])) == before
    assert replay(job.info.run_id, allow=[part]) == 0
    assert f"{part} differs: {name}: recorded 00000000" in capsys.readouterr().out


def test_code_that_bears_on_no_number_is_not_compared(
    recorded: tuple[MlflowClient, Run, list[Run]], origin: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An older record has it."""
    _, _, (job, _) = recorded
    found = json.loads(origin.read_text(encoding="utf-8"))
    assert not [name for name in found["code"] if name.startswith(("tracking/", "report/", "sweep/"))]
    found["code"]["tracking/ui.py"] = "0" * 64
    found["packages"]["matplotlib"] = "1.0"
    origin.write_text(json.dumps(found), encoding="utf-8")
    assert replay(job.info.run_id) == 0
    assert "as recorded: code, data, packages, machine" in capsys.readouterr().out


def test_other_packages_are_told(
    recorded: tuple[MlflowClient, Run, list[Run]], origin: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, (job, _) = recorded
    found = json.loads(origin.read_text(encoding="utf-8"))
    origin.write_text(json.dumps(found | {"packages": {"torch": "1.0"}}), encoding="utf-8")
    assert replay(job.info.run_id) == 0
    assert "packages differs: torch: recorded 1.0, here 2" in capsys.readouterr().out


def test_only_a_finished_run_is_replayed(recorded: tuple[MlflowClient, Run, list[Run]], project: Path) -> None:
    client, parent, (job, _) = recorded
    client.set_terminated(job.info.run_id, "KILLED")
    with pytest.raises(ReplayError, match="ended KILLED; only a finished run is a promise"):
        replay(job.info.run_id)
    client.set_terminated(job.info.run_id, "FINISHED")
    with pytest.raises(OSError, match="has no record to be replayed"):
        replay(parent.info.run_id)
    done = command(["initlab", "replay", "0" * 32], project, check=False)
    assert done.returncode == 2
    assert done.stderr == f"error: {project}/mlflow.db holds no run {'0' * 32}\n"


@pytest.mark.parametrize("origin", [{}, {"code": {}, "data": {}, "packages": {}, "machine": {}}, [1], {"code": 1}])
def test_an_empty_origin_is_no_proof(recorded: tuple[MlflowClient, Run, list[Run]], origin: object) -> None:
    client, _, (job, _) = recorded
    path = artifact(client, job, "provenance.json")
    text = path.read_text(encoding="utf-8")
    try:
        path.write_text(json.dumps(origin), encoding="utf-8")
        with pytest.raises(OSError, match=r"has no record to be replayed: provenance.json lacks one of code, data"):
            replay(job.info.run_id)
    finally:
        path.write_text(text, encoding="utf-8")


def test_a_changed_record_is_refused(recorded: tuple[MlflowClient, Run, list[Run]]) -> None:
    client, _, (job, _) = recorded
    config = artifact(client, job, "config.yaml")
    text = config.read_text(encoding="utf-8")
    try:
        config.write_text(text.replace("seed: 0", "seed: 1"), encoding="utf-8")
        with pytest.raises(ReplayError, match=r"config.yaml is not the one that was recorded"):
            replay(job.info.run_id)
    finally:
        config.write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"init": {"weights": {"_target_": "os.system", "command": "touch made"}}}, "init.weights._target_ is 'os.sys"),
        ({"init": {"weights": {"_target_": "builtins.eval"}}}, "'builtins.eval', which no replay may import or call"),
        ({"loss": {"_target_": "torch.load", "f": "x"}}, "loss._target_ is 'torch.load'"),
        ({"loss": {"_target_": ["os.system"]}}, "loss._target_ is"),
        ({"data": {"x": [{"_target_": "subprocess.Popen"}]}}, "data.x.0._target_ is 'subprocess.Popen'"),
        (
            {"trainer": {"callbacks": [{"_target_": "evil.Callback"}]}},
            "trainer.callbacks.0._target_ is 'evil.Callback'",
        ),
        ({"trainer": {"plugins": [{"_target_": "initlab.processes.os.system"}]}}, "trainer.plugins.0._target_"),
        ({"optimizer": {"_target_": "torch.optim.sgd.SGD"}}, "optimizer._target_ is 'torch.optim.sgd.SGD'"),
        ({"seed": "${oc.env:HOME}"}, "seed is '${oc.env:HOME}'; a recorded configuration is resolved"),
        ({"${oc.env:HOME}": 1}, "keys are words"),
        (
            {"trainer": {"strategy": "deepspeed"}},
            "trainer: strategy is 'deepspeed', which a replay does not take from a record",
        ),
        ({"trainer": {"accelerator": "hpu"}}, "trainer: accelerator is 'hpu', which"),
        ({"trainer": {"logger": True}}, "trainer: logger is True, which"),
        (
            {"trainer": {"default_root_dir": "/tmp/x"}},
            "trainer: default_root_dir is not something that a replay takes",
        ),
        ({"trainer": {"callbacks": [{"dirpath": "/tmp"}]}}, "trainer: dirpath is not something that a replay takes"),
        (
            {"trainer": {"callbacks": [{"_args_": ["/tmp"]}]}},
            "trainer.callbacks.0._args_ is not something that a replay takes",
        ),
        ({"trainer": {"callbacks": "x"}}, "trainer.callbacks is 'x'; expected a list of configurations"),
        ({"trainer": 5}, "trainer holds no configuration"),
        ({"trainer": {"callbacks": [{"filename": "../../x"}]}}, "trainer.callbacks.0.filename is '../../x'"),
    ],
)
def test_a_hostile_record_is_refused_by_name(change: dict, named: str) -> None:
    with pytest.raises(ReplayError) as refused:
        read_config(OmegaConf.to_yaml(OmegaConf.create(change)))
    assert named in str(refused.value)


@pytest.mark.parametrize(
    "text",
    ["!!python/object/apply:os.system ['touch made']", "a: &x [1]\nb: *x", "- 1", "a: [", "\x00", "{" * 1500],
)
def test_what_is_no_configuration_is_refused(text: str) -> None:
    with pytest.raises(ReplayError, match=r"config.yaml"):
        read_config(text)


def test_a_hostile_record_with_the_right_hash_calls_nothing(
    recorded: tuple[MlflowClient, Run, list[Run]], project: Path
) -> None:
    """Whoever can write to the store can write the hash too."""
    client, _, (job, _) = recorded
    config = artifact(client, job, "config.yaml")
    text = config.read_text(encoding="utf-8")
    try:
        evil = text.replace("initlab.nn.losses.CrossEntropy", "os.mkdir\n  path: made")
        assert evil != text
        config.write_text(evil, encoding="utf-8")
        client.set_tag(job.info.run_id, "config.sha256", sha256(evil))
        with pytest.raises(ReplayError, match=r"loss._target_ is 'os.mkdir', which no replay may import or call"):
            replay(job.info.run_id)
    finally:
        config.write_text(text, encoding="utf-8")
        client.set_tag(job.info.run_id, "config.sha256", sha256(text))
    assert not (project / "made").exists()


@pytest.mark.parametrize("choice", GROUPS)
def test_every_file_of_every_group_can_be_replayed(choice: str) -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = configs.run_config(compose("config", [choice]))
    assert read_config(OmegaConf.to_yaml(config)) == config
