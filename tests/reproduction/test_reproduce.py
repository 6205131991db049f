"""`initlab reproduce`, on real runs of few steps: it makes a reference, and says what agrees with it and what not."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT, command, environment
from omegaconf import OmegaConf

from initlab.cli import main
from initlab.reproduction import reference
from initlab.reproduction.command import reproduce
from initlab.tracking import results

WORDS = (
    *("-m", "init=kaiming,normal", "model.hidden=[20,20]", "replicas=5", "trainer=cpu", "trainer.max_epochs=1"),
    *("+trainer.limit_train_batches=100", "stats.every=50", "hydra.callbacks.sweep.report=false"),
)
Sweep = Callable[..., Path]


@pytest.fixture(scope="module")
def sweep(project: Path) -> Sweep:
    """Trains two variants with these overrides, and gives the folder of the results; settings: of the environment."""

    def run(name: str, *words: str, **settings: str) -> Path:
        line = [sys.executable, "train.py", *WORDS, *words, f"hydra.callbacks.sweep.folder={name}"]
        if settings:
            done = subprocess.run(
                line, cwd=project, env=environment() | settings, capture_output=True, encoding="utf-8"
            )
            assert done.returncode == 0, done.stderr
        else:
            command(line, project)
        return project / name

    return run


@pytest.fixture(scope="module")
def made(sweep: Sweep) -> Path:
    """The reference, made of the first results as the command makes it."""
    folder = sweep("first")
    command(["initlab", "reproduce", "first", "--make-reference", "--reference", "made"], folder.parent)
    return folder.parent / "made"


@pytest.fixture(autouse=True)
def _here(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)


def test_a_reference_is_small_and_says_what_made_it(made: Path) -> None:
    origin = json.loads((made / "origin.json").read_text(encoding="utf-8"))
    assert re.fullmatch("[0-9a-f]{40}", origin["commit"])
    assert origin["machine"]["cpu"]
    assert "torch" in origin["packages"]
    assert set(origin["data"]["data/normalized/mnist"]) == {"train", "validation", "test"}
    grown = origin["growth"]["init=kaiming"]
    assert list(grown) == ["50", "100"]
    assert 0 <= grown["100"] < 1e-2
    table = pd.read_csv(made / "replicas.csv")
    assert sorted(set(table["step"])) == [0, 50, 100]
    assert {file.name for file in made.iterdir()} == {"origin.json", "replicas.csv", "comparison.md", "overview.svg"}


def test_the_same_bits(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "first", "--reference", "made", "--check"]) == 0
    assert capsys.readouterr().out == "reproduced: 2 of 2 runs, to the bit\n"


def test_other_vector_units_and_libraries(made: Path, sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    """They add in another order: other bits, within the bounds and as far as is known within chance."""
    sweep("other", ATEN_CPU_CAPABILITY="default", MKL_CBWR="COMPATIBLE")
    assert main(["reproduce", "other", "--reference", "made", "--check", "--output", "other.csv"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("reproduced: 2 of 2 runs")
    table = pd.read_csv("other.csv", keep_default_na=False)
    assert table["what"][0] == said.strip()
    assert set(table["level"]) == {"verdict", "data", "step 0", "early", "final"}
    assert json.loads(Path("other.json").read_text(encoding="utf-8"))["differ"] == 0


@pytest.mark.parametrize(
    ("words", "said"), [(["optimizer.lr=0.049"], "update_ratio"), (["data.batch_size=63"], "at step")]
)
def test_wrong_by_a_little(
    made: Path, sweep: Sweep, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep("wrong", *words)
    assert main(["reproduce", "wrong", "--reference", "made", "--check"]) == 1
    line = capsys.readouterr().out
    assert line.startswith("NOT reproduced: init=kaiming: ")
    assert said in line
    assert words[0].split("=")[0] in line
    assert main(["reproduce", "wrong", "--reference", "made"]) == 0  # scripts ask for it


# What can't be read


def broken(folder: Path, change: Callable[[Path], object]) -> str:
    """What reading a changed copy of the project's reference says."""
    shutil.copytree(ROOT / "reference", folder)
    change(folder)
    with pytest.raises(reference.UnreadableReferenceError) as refused:
        reference.read(folder)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def edit(name: str, value: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        origin = json.loads((folder / "origin.json").read_text(encoding="utf-8"))
        origin[name] = value
        (folder / "origin.json").write_text(json.dumps(origin), encoding="utf-8")

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (shutil.rmtree, "holds no replicas.csv; initlab reproduce --make-reference"),
        (lambda folder: (folder / "origin.json").unlink(), "holds no origin.json"),
        (lambda folder: (folder / "origin.json").write_text("{", encoding="utf-8"), r"origin.json is damaged \("),
        (lambda folder: (folder / "origin.json").write_text("[]", encoding="utf-8"), r"origin.json is damaged \("),
        (edit("format", 2), "has format 2; expected 1"),
        (edit("growth", {"a": 1}), "origin.json or replicas.csv is damaged, by their SHA-256"),
        (edit("sha256", None), "origin.json or replicas.csv is damaged, by their SHA-256"),
        (lambda folder: os.truncate(folder / "replicas.csv", 1000), r"origin.json or replicas.csv is damaged, by"),
    ],
)
def test_a_reference_that_is_missing_or_damaged(change: Callable[[Path], object], said: str, tmp_path: Path) -> None:
    assert re.search(said, broken(tmp_path / "reference", change))


def test_the_verdict_is_written_all_the_same(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """So that the pipeline's report is made."""
    assert reproduce(Path("first"), Path("none"), Path("none.csv")) is None
    said = "not compared: none holds no replicas.csv; initlab reproduce --make-reference makes a new one"
    assert capsys.readouterr().out == f"{said}\n"
    assert pd.read_csv("none.csv")["what"].to_list() == [said]
    assert main(["reproduce", "first", "--reference", "none", "--check"]) == 2


def test_results_without_replicas(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", str(tmp_path), "--reference", "made"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path} holds no replicas.csv, ")
    shutil.copytree("first", tmp_path / "first")
    table = pd.read_csv(tmp_path / "first" / "replicas.csv")
    for kept in (table[table["step"] > 0], table[:0], table.drop(columns="replica")):
        kept.to_csv(tmp_path / "first" / "replicas.csv", index=False)
        assert main(["reproduce", str(tmp_path / "first"), "--reference", "made"]) == 2
        line = "error: the results' replicas.csv has no replicas of init=kaiming at step 0, which are compared\n"
        assert capsys.readouterr().err == line


def test_a_reference_is_made_of_results_that_are_there(made: Path, tmp_path: Path) -> None:
    found = results.load(Path("first"))
    shutil.copytree("first", tmp_path / "first")
    for run in found.runs.values():
        run["config"]["data"]["folder"] = "none"
    results.save(found, tmp_path / "first")
    with pytest.raises(ValueError, match="none holds no normalised data, whose digests a reference has"):
        main_make(tmp_path)


def main_make(folder: Path) -> None:
    from initlab.reproduction.command import make_reference

    make_reference(folder / "first", folder / "reference")


def test_the_reference_that_git_has_is_read() -> None:
    """Of all runs that the pipeline trains, and less than a megabyte."""
    known = reference.read(ROOT / "reference")
    inits = OmegaConf.load(ROOT / "params.yaml").init.split(",")
    assert known.runs.keys() >= {f"init={init},model={model}" for init in inits for model in ("shallow", "deep")}
    assert sum(file.stat().st_size for file in (ROOT / "reference").iterdir()) < 1_000_000
