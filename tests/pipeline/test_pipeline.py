"""`dvc repro` from a fresh clone, with the training made short."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from hashlib import md5
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT, command, environment, fresh_clone, wait_for
from helpers.projects import damage, dvc, edit, git
from mlflow import MlflowClient
from omegaconf import OmegaConf

from initlab.confidence_intervals import mean_ci95

ELEVEN = "kaiming,kaiming_fan_out,kaiming_leaky,lecun,lsuv,normal,orthogonal,pytorch,shifted_relu,unit_relu,xavier"


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fresh_clone(tmp_path_factory.mktemp("clone"))


@pytest.fixture
def made(clone: Path) -> Path:
    """The clone, and its data."""
    dvc(clone, "repro", "normalize")
    return clone


def test_the_data_is_remade_as_it_is_pinned(clone: Path) -> None:
    """No network; the hashes are those of dvc.lock and data.dvc, so git has nothing to say."""
    assert not (clone / "data" / "normalized").exists()
    output = dvc(clone, "repro", "normalize")
    assert "Stage 'download' didn't change, skipping" in output
    assert "mnist: training mean 0.1304, std 0.3073; 10 classes" in output
    assert "mnist_60k: training mean 33.3184, std 78.5675; 10 classes" in output
    assert git(clone, "status", "--porcelain") == ""
    assert "Data and pipelines are up to date" in dvc(clone, "status", "normalize")


def cached(clone: Path, path: Path) -> Path:
    """DVC's copy of a file."""
    digest = md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    return clone / ".dvc" / "cache" / "files" / "md5" / digest[:2] / digest[2:]


@pytest.mark.faults(
    "DVC's cached copy of a raw file is damaged, and checked out again",
    "`normalize` refuses it by its hash, which is not that of `data.dvc`, and names the command that brings it back",
)
def test_a_damaged_object_in_the_cache(made: Path) -> None:
    """DVC itself restores a damaged copy, and says that all is well."""
    file = made / "data" / "raw" / "train-labels-idx1-ubyte.gz"
    copy = cached(made, file)
    damage(copy)
    shutil.rmtree(made / "data" / "raw")
    dvc(made, "checkout", "data.dvc")
    done = command([sys.executable, "-m", "dvc", "repro", "-f", "-s", "normalize"], made, check=False)
    assert done.returncode == 255
    assert "holds data " in done.stderr
    (advice,) = re.findall(r"get them back with: (.*)", done.stderr)
    command(["sh", "-c", advice], made)
    assert copy.read_bytes() == file.read_bytes() == (made / "mirror" / file.name).read_bytes()
    dvc(made, "repro", "-f", "-s", "normalize")
    assert git(made, "status", "--porcelain") == ""


@pytest.mark.faults(
    "a normalised file is damaged", "training refuses it by its SHA-256 and names the command that remakes it"
)
def test_a_damaged_normalised_file(made: Path) -> None:
    damage(made / "data" / "normalized" / "mnist" / "validation.safetensors")
    done = command([sys.executable, "train.py", "experiment=smoke"], made, check=False)
    assert done.returncode == 1
    assert done.stderr.endswith("is missing or damaged; make it again with: dvc repro -f normalize\n")
    dvc(made, "repro", "-f", "-s", "normalize")
    assert git(made, "status", "--porcelain") == ""


@pytest.mark.faults(
    "the normalised data are not made from the data that data.dvc pins",
    "training refuses them, naming both hashes and `dvc repro normalize`",
)
def test_data_of_another_version(made: Path) -> None:
    """As after a `git checkout` without `dvc checkout`."""
    pinned = OmegaConf.load(made / "data.dvc").outs[0].md5
    edit(made / "data.dvc", f"path: data/raw\n  md5: {pinned}", f"path: data/raw\n  md5: {'0' * 32}.dir")
    done = command([sys.executable, "train.py", "experiment=smoke"], made, check=False)
    git(made, "checkout", "data.dvc")
    assert done.returncode == 1
    assert done.stderr == (
        f"error: data/normalized/mnist was made of data {pinned}; data.dvc pins {'0' * 32}.dir: dvc repro normalize\n"
    )


EDITED = ("conf/trainer/auto.yaml", "conf/config.yaml", "conf/model/deep.yaml")


@pytest.fixture(scope="module")
def short(clone: Path) -> Path:
    """The clone, with a training that takes half a minute."""
    edit(clone / "conf" / "trainer" / "auto.yaml", "max_epochs: 8", "max_epochs: 1")
    edit(clone / "conf" / "config.yaml", "replicas: 8", "replicas: 2")
    edit(clone / "conf" / "model" / "deep.yaml", "[50, 50, 50, 50, 50, 50, 50, 50]", "[10, 10, 10]")
    edit(clone / "dvc.yaml", "--draws 1000", "--draws 10")
    return clone


@pytest.mark.faults(
    "two `dvc repro` at once; then `kill -9` of the first, and of all it started",
    "the second says who holds the lock and ends; dvc.lock is as it was; the next `dvc repro` does what is left to do",
)
def test_two_repros_at_once_and_one_interrupted(short: Path) -> None:
    before = (short / "dvc.lock").read_bytes()
    words = [sys.executable, "-m", "dvc", "repro", "train"]
    with subprocess.Popen(
        words, cwd=short, env=environment(), start_new_session=True, stdout=subprocess.PIPE, encoding="utf-8"
    ) as first:
        wait_for("epoch 1/", first)
        second = command(words, short, check=False)
        os.killpg(first.pid, signal.SIGKILL)
    assert second.returncode == 255
    assert "is busy, it is being blocked by" in second.stderr
    assert f"(PID {first.pid})" in second.stderr
    assert (short / "dvc.lock").read_bytes() == before


def test_repro_runs_to_the_end_and_then_has_nothing_to_do(short: Path) -> None:
    """Of three variants: of all of them, CI has seen `dvc repro` before it runs this."""
    clone = short
    edit(clone / "params.yaml", ELEVEN, "kaiming,normal,shifted_relu")
    output = dvc(clone, "repro")
    variants = ("kaiming", "normal", "shifted_relu")
    verdict = "reproduced: 3 of 6 runs"  # two replicas and one epoch; another deep network
    assert output.rindex(verdict) > output.index("copied to the artifacts of run")
    metrics = {
        path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (clone / "report" / "metrics").iterdir()
    }
    assert set(metrics) == {f"init={variant},model={model}" for variant in variants for model in ("shallow", "deep")}
    assert metrics["init=kaiming,model=shallow"]["test/accuracy"] > 0.9
    page = (clone / "report" / "index.html").read_text(encoding="utf-8")
    assert "12 networks" in page
    assert page.count('<div class="plot"') == 28  # 12 per setting, 3 by depth, the lesson's
    assert f"<b>{verdict}" in page
    changed = {line.split()[-1] for line in git(clone, "status", "--porcelain").splitlines()}
    assert changed == {"dvc.lock", "dvc.yaml", "params.yaml", *EDITED, "report/lesson.csv"}  # of other draws
    (run_id,) = re.findall("copied to the artifacts of run ([0-9a-f]{32})", output)
    client = MlflowClient(f"sqlite:///{clone}/mlflow.db")
    assert Path(client.download_artifacts(run_id, "index.html")).read_text(encoding="utf-8") == page
    figures = {item.path for item in client.list_artifacts(run_id, "figures")}
    assert {"figures/lesson.svg", "figures/weights_1.svg", "figures/weights_2.svg"} < figures
    assert len(figures) == 28
    assert "Data and pipelines are up to date" in dvc(clone, "repro")


@pytest.mark.slow
def test_a_changed_variant_changes_only_what_depends_on_it(clone: Path) -> None:
    """Finished jobs are taken from MLflow, unless DVC is told to run the stage by force."""
    client = MlflowClient(f"sqlite:///{clone}/mlflow.db")

    def trained() -> int:
        return len(client.search_runs(["1"], "tags.init != '' and attributes.status = 'FINISHED'"))

    begun = trained()
    edit(clone / "conf" / "activation" / "shifted_relu.yaml", "shift: 0.5", "shift: 0.25")
    assert set(json.loads(dvc(clone, "status", "--json"))) == {"train"}
    diff = json.loads(dvc(clone, "params", "diff", "--json"))["conf/activation/shifted_relu.yaml"]
    assert diff["shift"] == {"old": 0.5, "new": 0.25, "diff": -0.25}
    before = {path.name: path.read_text(encoding="utf-8") for path in (clone / "report" / "metrics").iterdir()}
    output = dvc(clone, "repro")
    for stage in ("download", "normalize", "lesson"):
        assert f"Stage '{stage}' didn't change, skipping" in output
    after = {path.name: path.read_text(encoding="utf-8") for path in (clone / "report" / "metrics").iterdir()}
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {"init=shifted_relu,model=shallow.json", "init=shifted_relu,model=deep.json"}
    assert trained() == begun + 2
    command(["dvc", "repro", "--force", "--single-item", "train"], clone)  # not warm: it asks what started it
    assert trained() == begun + 2 + 6


def test_a_damaged_reference_costs_no_report(clone: Path) -> None:
    (clone / "reference" / "origin.json").write_text("{", encoding="utf-8")
    output = dvc(clone, "repro")
    git(clone, "checkout", "reference")
    assert re.findall("^not compared: reference/origin.json is damaged", output, re.MULTILINE)
    assert "not compared: reference" in (clone / "report" / "index.html").read_text(encoding="utf-8")


def test_every_variant_is_in_the_params_that_dvc_shows() -> None:
    """Each file of a scheme or an activation."""
    listed = set(OmegaConf.load(ROOT / "dvc.yaml").params)
    there = [path for group in ("activation", "init") for path in (ROOT / "conf" / group).glob("*.yaml")]
    assert listed == {path.relative_to(ROOT).as_posix() for path in there}


def test_the_pipeline_trains_the_eleven_variants_of_the_report() -> None:
    """By name: a variant that is added is trained by a sweep, and joins the pipeline if its name is added."""
    trained = OmegaConf.load(ROOT / "params.yaml").init.split(",")
    assert trained == ELEVEN.split(",")
    assert {*trained} < {path.stem for path in (ROOT / "conf" / "init").glob("*.yaml")}


def test_kaiming_reaches_what_is_promised() -> None:
    """784-50-10, cross-entropy, SGD, batches of 64: above 96.5 % on the test images, by the results that git has."""
    table = pd.read_csv(ROOT / "reference" / "replicas.csv").set_index("run").loc["init=kaiming,model=shallow"]
    mean, ci95 = mean_ci95(table["test/accuracy"].dropna().to_numpy())
    assert ci95 is not None
    assert mean - ci95 > 0.965
