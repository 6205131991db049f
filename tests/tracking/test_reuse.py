"""A finished run takes the place of a job whose numbers would be the same, and of no other."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import Train
from helpers import runs
from mlflow import MlflowClient

from initlab.tracking import provenance, reuse
from initlab.tracking.run_logger import RunLogger
from initlab.training.fit import inputs_sha256

TINY = ("trainer=cpu", "replicas=2", "model.hidden=[5]", "trainer.max_epochs=1", "+trainer.limit_train_batches=5")


@pytest.fixture(scope="module")
def made(normalized: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("made") / "run"
    runs.train(folder, runs.composed(normalized, *TINY))
    return folder


def found(made: Path, config: dict[str, Any]) -> float | None:
    """The accuracy of the run that would take the place of one with this configuration."""
    place = {"uri": f"sqlite:///{made.parent}/mlflow.db", "experiment": "any", "folder": made.parent / "other"}
    return reuse.find_run(inputs_sha256(config), **place, name="other", overrides=[], sweep=None)


def test_a_run_is_found_by_what_its_numbers_are_a_function_of(made: Path, normalized: Path) -> None:
    accuracy = found(made, runs.composed(normalized, *TINY))
    assert (
        accuracy
        == MlflowClient(f"sqlite:///{made.parent}/mlflow.db").search_runs(["1"])[0].data.metrics["val/accuracy"]
    )
    for word in ("seed=1", "init=lecun", "optimizer.lr=0.06", "replicas=3", "stats.every=50"):
        assert found(made, runs.composed(normalized, *TINY, word)) is None, word


@pytest.mark.parametrize(
    ("file", "counts"),
    [
        ("nn/mlp.py", True),
        ("training/fit.py", True),
        ("workers.py", True),
        ("report/page.py", False),
        ("sweep/job.py", False),
    ],
)
def test_code_counts_if_it_bears_on_numbers(
    file: str, counts: bool, made: Path, normalized: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(provenance.PACKAGE, tmp_path / "initlab")
    with (tmp_path / "initlab" / file).open("a", encoding="utf-8") as text:
        text.write("# another line\n")
    names = provenance.code()
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path / "initlab")
    monkeypatch.setattr(provenance, "_loaded_files", lambda: [tmp_path / "initlab" / name for name in names])
    assert (found(made, runs.composed(normalized, *TINY)) is None) == counts


@pytest.mark.parametrize(
    ("package", "counts"), [("torch", True), ("numpy", True), ("mlflow", False), ("matplotlib", False)]
)
def test_packages_count_if_they_bear_on_numbers(
    package: str, counts: bool, made: Path, normalized: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = provenance.packages()
    monkeypatch.setattr(provenance, "packages", lambda: here | {package: "0.0"})
    assert (found(made, runs.composed(normalized, *TINY)) is None) == counts


def test_another_machine_counts(made: Path, normalized: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "_cpu", lambda: "another")
    assert found(made, runs.composed(normalized, *TINY)) is None


def test_a_run_that_went_on_with_other_code_is_not_found(normalized: Path, tmp_path: Path) -> None:
    """It is a function of both."""
    config = runs.composed(normalized, *TINY, "trainer.max_epochs=2")

    def interrupt(run: RunLogger) -> None:
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        runs.train(tmp_path / "run", config, each=interrupt)
    origin = json.loads((tmp_path / "run" / "provenance.json").read_text(encoding="utf-8"))
    origin["code"]["nn/mlp.py"] = "0" * 64
    (tmp_path / "run" / "provenance.json").write_text(json.dumps(origin), encoding="utf-8")
    runs.train(tmp_path / "run", config, allow=["code"])
    assert found(tmp_path / "run", config) is None


def test_a_sweep_takes_finished_runs_for_jobs(train: Train, project: Path) -> None:
    """They are its jobs, in MLflow too; only what is new is trained. The report is that of a new sweep."""
    words = ("-m", "model.hidden=[5]", *TINY[:2], *TINY[3:])
    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    train(*words, "init=kaiming,lecun", "hydra.sweep.dir=multirun/first")
    before = {run.info.run_id for run in client.search_runs(["1"], "tags.init != ''")}
    assert len(before) == 2
    done = train(*words, "init=kaiming,xavier,lecun", "reuse=true", "hydra.sweep.dir=multirun/second")
    assert done.stdout.count("reused") == 4  # in the log, and in the table
    new = {run.info.run_id for run in client.search_runs(["1"], "tags.init != ''")} - before
    assert len(new) == 1
    (parent,) = client.search_runs(["1"], "tags.sweep LIKE '%second'")
    jobs = client.search_runs(["1"], f"tags.`sweep.{parent.info.run_id}` != ''")
    assert {run.info.run_id for run in jobs} == before | new
    assert parent.data.metrics["jobs"] == 3
    train(*words, "init=kaiming,xavier,lecun", "hydra.sweep.dir=multirun/third")
    for name in ("replicas.csv", "runs.json", "tensors.safetensors", "report/index.html", "report/layers.csv"):
        second, third = (project / "multirun" / sweep / name for sweep in ("second", "third"))
        assert second.read_bytes() == third.read_bytes(), name


def test_a_single_run_is_reused_too(train: Train) -> None:
    words = (*TINY, "init=orthogonal")
    train(*words)
    assert "reused, from run " in train(*words, "reuse=true").stdout
    assert "epoch 1/1" in train(*words).stdout


def test_reuse_is_a_bool(train: Train) -> None:
    done = train("reuse=all", check=False)
    assert (done.returncode, done.stderr) == (1, "error: reuse is 'all'; expected true or false\n")
