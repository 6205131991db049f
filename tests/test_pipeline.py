"""`dvc repro` from a fresh clone, with the training made short."""

import json
import re
import sys
from pathlib import Path

import pytest
from conftest import command, fresh_clone
from mlflow import MlflowClient
from omegaconf import OmegaConf


def dvc(clone: Path, *arguments: str) -> str:
    return command([sys.executable, "-m", "dvc", *arguments], clone).stdout


def git(clone: Path, *arguments: str) -> str:
    return command(["git", *arguments], clone).stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fresh_clone(tmp_path_factory.mktemp("clone"))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_the_data_is_remade_as_it_is_pinned(clone: Path) -> None:
    """No network; the hashes are those of dvc.lock and data.dvc, so git has nothing to say."""
    assert not (clone / "data" / "normalized").exists()
    output = dvc(clone, "repro", "normalize")
    assert "Stage 'download' didn't change, skipping" in output
    assert "mnist: training mean 0.1304, std 0.3073; 10 classes" in output
    assert "mnist_60k: training mean 33.3184, std 78.5675; 10 classes" in output
    assert git(clone, "status", "--porcelain") == ""
    assert "Data and pipelines are up to date" in dvc(clone, "status", "normalize")


def test_repro_runs_to_the_end_and_then_has_nothing_to_do(clone: Path) -> None:
    edit(clone / "conf" / "trainer" / "auto.yaml", "max_epochs: 8", "max_epochs: 1")
    edit(clone / "conf" / "config.yaml", "replicas: 8", "replicas: 2")
    edit(clone / "conf" / "model" / "deep.yaml", "[50, 50, 50, 50, 50, 50, 50, 50]", "[10, 10, 10]")
    edit(clone / "dvc.yaml", "--draws 1000", "--draws 10")
    output = dvc(clone, "repro")
    variants = {path.stem for path in (clone / "conf" / "init").glob("*.yaml")}
    metrics = {path.stem: json.loads(path.read_text()) for path in (clone / "report" / "metrics").iterdir()}
    assert set(metrics) == {f"init={variant},model={model}" for variant in variants for model in ("shallow", "deep")}
    assert metrics["init=kaiming,model=shallow"]["test/accuracy"] > 0.9
    page = (clone / "report" / "index.html").read_text()
    assert "44 networks" in page
    assert page.count("<img ") == 12  # figures 1, 3 and 4 are in two parts, and one more sums all up
    (run_id,) = re.findall("copied to the artifacts of run ([0-9a-f]{32})", output)
    client = MlflowClient(f"sqlite:///{clone}/mlflow.db")
    assert Path(client.download_artifacts(run_id, "index.html")).read_text() == page
    figures = {item.path for item in client.list_artifacts(run_id, "figures")}
    assert {"figures/lesson.png", "figures/overview.png", "figures/weights.png"} < figures
    assert len(figures) == 12
    assert "Data and pipelines are up to date" in dvc(clone, "repro")


def test_metrics_and_plots_say_something(clone: Path) -> None:
    assert "report/metrics/init=shifted_relu,model=deep.json" in dvc(clone, "metrics", "show")
    changed = json.loads(dvc(clone, "metrics", "diff", "--json"))  # against the committed results, of eight epochs
    assert len(changed) == 22
    page = Path(dvc(clone, "plots", "show").strip().removeprefix("file://")).read_text()
    assert page.count("vega-lite/v5.json") == 3
    assert "shifted_relu" in page
    params = json.loads(dvc(clone, "params", "diff", "--json"))
    assert params["conf/trainer/auto.yaml"]["max_epochs"] == {"old": 8, "new": 1, "diff": -7}


def test_a_changed_variant_changes_only_what_depends_on_it(clone: Path) -> None:
    edit(clone / "conf" / "init" / "shifted_relu.yaml", "shift: 0.5", "shift: 0.25")
    assert set(json.loads(dvc(clone, "status", "--json"))) == {"train"}
    diff = json.loads(dvc(clone, "params", "diff", "--json"))["conf/init/shifted_relu.yaml"]
    assert diff["activation.shift"] == {"old": 0.5, "new": 0.25, "diff": -0.25}
    before = {path.name: path.read_text() for path in (clone / "report" / "metrics").iterdir()}
    output = dvc(clone, "repro")
    for stage in ("download", "normalize", "lesson"):
        assert f"Stage '{stage}' didn't change, skipping" in output
    after = {path.name: path.read_text() for path in (clone / "report" / "metrics").iterdir()}
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {"init=shifted_relu,model=shallow.json", "init=shifted_relu,model=deep.json"}


def test_every_variant_is_in_the_params_that_dvc_shows() -> None:
    root = Path(__file__).parents[1]
    listed = {Path(name).stem for name in OmegaConf.load(root / "dvc.yaml").params}
    assert listed == {path.stem for path in (root / "conf" / "init").glob("*.yaml")}


def test_kaiming_reaches_what_is_promised() -> None:
    """784-50-10, cross-entropy, SGD, batches of 64: above 96.5 % on the test images, by the results that git has."""
    metrics = json.loads(
        (Path(__file__).parents[1] / "report" / "metrics" / "init=kaiming,model=shallow.json").read_text()
    )
    assert metrics["test/accuracy"] - metrics["test/accuracy.ci95"] > 0.965
