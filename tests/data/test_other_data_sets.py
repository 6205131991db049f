"""Data sets of other labels, file names and image sizes, each as its configuration has it; the files are made up."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, Train
from helpers.pages import blocks, shell_blocks
from helpers.projects import idx, make_files
from mlflow import MlflowClient
from omegaconf import OmegaConf
from torchvision.datasets import EMNIST, KMNIST, MNIST, FashionMNIST

from initlab.cli import main
from initlab.data import DataError
from initlab.data.normalize import write_normalized
from initlab.data.normalized_files import load, read_facts
from initlab.tracking.pyfunc import _load_pyfunc

CONF = ROOT / "conf" / "data"
TRAIN, VALIDATION, TEST = 120, 30, 30
# Labels as they are in the files, and the side of an image.
SETS: dict[str, tuple[Sequence[int], int]] = {
    "fashion_mnist": (range(10), 28),
    "kmnist": (range(10), 28),
    "emnist_letters": (range(1, 27), 28),
    "emnist_balanced": (range(47), 28),
    "digits": (range(10), 8),
}
MNIST_FILES = {"train": "train", "test": "t10k"}


def make(name: str, folder: Path, *, train: int = TRAIN, validation: int = VALIDATION, test: int = TEST) -> Path:
    """A small data set, normalised by its own configuration, but for the number of validation images."""
    labels, side = SETS[name]
    config = OmegaConf.load(CONF / f"{name}.yaml")
    prefixes = config.get("prefixes", MNIST_FILES)
    names = prefixes["train"], prefixes["test"]
    make_files(folder / "raw", train=train + validation, test=test, seed=3, labels=labels, side=side, prefixes=names)
    config.validation = validation
    OmegaConf.save(config, folder / f"{name}.yaml")
    assert main(["data", "normalize", str(folder / "raw"), str(folder), str(folder / f"{name}.yaml")]) == 0
    return folder / name


def write_pair(folder: Path, prefix: str, labels: list[int], images: np.ndarray) -> None:
    for name, values in (("images-idx3", images), ("labels-idx1", np.array(labels, np.uint8))):
        content = gzip.compress(idx(*values.shape, body=values.tobytes()))
        (folder / f"{prefix}-{name}-ubyte.gz").write_bytes(content)


def images(count: int) -> np.ndarray:
    """2 x 3 pixels of different values."""
    return np.arange(6 * count, dtype=np.uint8).reshape(count, 2, 3)


@pytest.mark.parametrize("name", SETS)
def test_the_data_say_how_many_classes_there_are(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Classes are numbered from 0 whatever the labels are; it is said which were found."""
    labels, side = SETS[name]
    out = make(name, tmp_path, train=2000)
    said = capsys.readouterr().out
    found = ", labels 1 to 26" if name == "emnist_letters" else ""
    assert f"; {len(labels)} classes{found}\n" in said
    facts = read_facts(out)
    assert (facts["classes"], facts["inputs"]) == (len(labels), side * side)
    assert facts.get("labels", list(range(len(labels)))) == list(labels)
    _, classes = load(out, "train")
    assert sorted(set(classes.tolist())) == list(range(len(labels)))


def test_images_whose_columns_are_stored_are_turned(tmp_path: Path) -> None:
    """A pixel of row r and column c is in the file at row c and column r, as EMNIST has it."""
    stored, as_seen = tmp_path / "stored", tmp_path / "seen"
    for folder, turn in ((stored, (0, 2, 1)), (as_seen, (0, 1, 2))):
        folder.mkdir()
        for prefix in ("train", "t10k"):
            write_pair(folder, prefix, [0, 1, 2, 1], images(4).transpose(turn).copy())
    settings: dict[str, Any] = {"validation": 1, "scale": 256}
    turned = write_normalized(stored, tmp_path / "a", transpose=True, **settings)
    straight = write_normalized(as_seen, tmp_path / "b", **settings)
    assert turned["splits"] == straight["splits"]  # their SHA-256 too
    assert turned["splits"] != write_normalized(stored, tmp_path / "c", **settings)["splits"]


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ([3, 3, 3], [3], "train: all labels are 3; expected at least 2 classes"),
        ([1, 2, 3], [0], "t10k: a label is 0; in the training file they are 1 to 3"),
        ([3, 7, 7], [5], "t10k: a label is 5; in the training file they are 3, 7"),
    ],
)
def test_labels_that_make_no_classes_are_refused(
    train: list[int], test: list[int], message: str, tmp_path: Path
) -> None:
    for prefix, labels in (("train", train), ("t10k", test)):
        write_pair(tmp_path, prefix, labels, images(len(labels)))
    with pytest.raises(DataError, match=message):
        write_normalized(tmp_path, tmp_path / "out", validation=None, scale=1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("transposed: true", "mine.yaml has a key transposed; expected some of batch_size, folder, pin, prefixes"),
        ("transpose: maybe", "mine.yaml: transpose is 'maybe'; expected true or false"),
        ("prefixes: emnist-", "prefixes is 'emnist-'; expected `train` and `test`"),
        ("prefixes: {train: a}", "prefixes is {'train': 'a'}; expected `train` and `test`"),
        ("prefixes: {train: a, test: b}", "a-images-idx3-ubyte.gz: No such file"),
    ],
)
def test_a_configuration_is_refused_in_one_line(
    line: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"validation: null\nscale: 1\n{line}\n", encoding="utf-8")
    assert main(["data", "normalize", str(tmp_path), str(tmp_path), str(path)]) == 1
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_a_configuration_names_validation_and_scale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.yaml"
    for text, message in (("scale: 1", "has no key validation"), ("- 1", "has no key scale"), ("[", "mine.yaml: ")):
        path.write_text(text, encoding="utf-8")
        assert main(["data", "normalize", str(tmp_path), str(tmp_path), str(path)]) == 1
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(("name", "theirs"), [("fashion_mnist", FashionMNIST), ("kmnist", KMNIST)])
def test_mirrors_and_checksums_are_torchvisions(name: str, theirs: type[MNIST]) -> None:
    source = OmegaConf.load(CONF / "source" / f"{name}.yaml")
    assert list(source.mirrors) == theirs.mirrors
    assert dict(source.files) == dict(theirs.resources)


def test_emnists_archive_is_torchvisions() -> None:
    source = OmegaConf.load(CONF / "source" / "emnist.yaml")
    (mirror,), ((file, md5),) = source.mirrors, source.files.items()
    assert (f"{mirror}{file}", md5) == (EMNIST.url, EMNIST.md5)
    for split in ("letters", "balanced"):
        prefixes = OmegaConf.load(CONF / f"emnist_{split}.yaml").prefixes
        assert list(prefixes.values()) == [f"emnist-{split}-train", f"emnist-{split}-test"]


def test_a_sweep_on_47_classes(train: Train, project: Path, tmp_path: Path) -> None:
    """The last layer, chance, the classes that MSE predicts, the model and the report follow the data."""
    folder = make("emnist_balanced", tmp_path, train=500)
    words = ("data=emnist_balanced", f"data.folder={folder}", "experiment=smoke", "model.hidden=[20]")
    out = f"hydra.sweep.dir={tmp_path}/sweep"
    printed = train("-m", "loss=cross_entropy,mse", "trainer=cpu", "stats.probe=20", *words, out).stdout
    assert "report" in printed
    page = (tmp_path / "sweep" / "report" / "index.html").read_text(encoding="utf-8")
    assert "784-20-47" in page
    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    outputs = set()
    for run in client.search_runs(["1"], f"params.data.folder = '{folder}' and tags.init != ''"):
        theory = json.loads(
            Path(client.download_artifacts(run.info.run_id, "theory.json", str(tmp_path))).read_text(encoding="utf-8")
        )
        assert theory["chance"] == 1 / 47
        outputs.add(theory["outputs"])
        assert not [name for name in run.data.params if name.startswith("loss.") and name != "loss._target_"]
        (model,) = client.search_logged_models(["1"], f"source_run_id = '{run.info.run_id}'")
        networks = _load_pyfunc(f"{model.artifact_location.removeprefix('file://')}/data/networks")
        predicted = networks.predict(np.random.default_rng(0).integers(256, size=(50, 784), dtype=np.uint8))
        assert networks.loss.classes == 47
        assert set(predicted.ravel().tolist()) <= set(range(47))
    assert outputs == {1, 47}


def test_scikit_learns_digits_as_the_page_makes_them(
    train: Train, project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """8 x 8 pixels and all; the project's own data folder is where the commands look."""
    pytest.importorskip("sklearn")
    monkeypatch.chdir(project)
    (code,) = blocks("docs/data.md", "python")
    exec(code, {})
    (text,) = [block.text for block in shell_blocks("docs/data.md") if "digits" in block.text]
    normalize, trained = text.splitlines()
    assert main(normalize.removeprefix("initlab ").split()) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[:4] for line in said[1:]] == [
        ["train", "1200", "x", "64"],
        ["validation", "300", "x", "64"],
        ["test", "297", "x", "64"],
    ]
    train(*trained.removeprefix("python train.py ").split(), "experiment=smoke", "trainer.max_epochs=3")
    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    (run,) = client.search_runs(["1"], "params.data.folder = 'data/digits'")
    assert run.data.metrics["test/accuracy"] > 0.3  # chance is 0.1
