"""A run's networks as an MLflow model: what it predicts is what was tested, in a process that has none of this code."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Train, command
from helpers.pages import blocks
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.models import Model

from initlab.data.idx import read_pair
from initlab.nn import activations, init
from initlab.nn.gaussian import FUNCTIONS
from initlab.nn.losses import CrossEntropy
from initlab.tracking import logged_model, pyfunc
from initlab.tracking.sync import sync_run

WORDS = ("init=half_0.5", "experiment=smoke", "trainer=cpu", "model.hidden=[20]")


@pytest.fixture(scope="module")
def place(project: Path) -> tuple[MlflowClient, Run]:
    """A run whose model is registered."""
    conf = project / "conf" / "init"
    (conf / "half_0.5.yaml").write_text(
        (conf / "kaiming.yaml").read_text(encoding="utf-8"), encoding="utf-8"
    )  # MLflow has no dot in a model's name
    command([sys.executable, "train.py", *WORDS, "tracking.register=true"], project)
    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    (run,) = client.search_runs(["1"])
    return client, run


def test_it_predicts_what_was_tested(place: tuple[MlflowClient, Run], project: Path, raw: Path, tmp_path: Path) -> None:
    """Every replica's test accuracy, to the image, from the pixels of MNIST's own file, as the page loads it."""
    client, run = place
    pixels, labels = read_pair(raw, "t10k")
    np.save(tmp_path / "pixels.npy", pixels.numpy())
    (code,) = blocks("docs/tracker.md", "python")
    code = code.replace("initlab-kaiming", "initlab-half_0-5")
    code = f"import numpy, sys\npixels = numpy.load(sys.argv[1])\n{code}\nnumpy.save(sys.argv[2], classes)\n"
    code += "print(sys.modules['initlab'].__file__)"
    words = [sys.executable, "-I", "-c", code, str(tmp_path / "pixels.npy"), str(tmp_path / "classes")]
    used = Path(command(words, project).stdout.strip())
    assert used.parts[-4:] == ("artifacts", "code", "initlab", "__init__.py")  # the model's own
    right = (np.load(tmp_path / "classes.npy") == labels.numpy()[:, None]).sum(0)
    table = pd.read_csv(client.download_artifacts(run.info.run_id, "replicas.csv", str(tmp_path)))
    tested = table["test/accuracy"].dropna().to_numpy() * len(labels)
    assert right.tolist() == tested.round().astype(int).tolist()


def test_it_has_a_signature_an_example_and_no_pickle(place: tuple[MlflowClient, Run], tmp_path: Path) -> None:
    client, run = place
    (output,) = run.outputs.model_outputs
    found = client.get_logged_model(output.model_id)
    assert (found.name, found.status) == ("half_0-5", "READY")
    assert {metric.key for metric in found.metrics} == {"test/accuracy", "val/accuracy", "val/loss"}
    folder = Path(found.artifact_location.removeprefix("file://"))
    model = Model.load(str(folder))
    assert json.loads(model.signature.to_dict()["inputs"])[0]["tensor-spec"] == {"dtype": "uint8", "shape": [-1, 784]}
    assert json.loads(model.signature.to_dict()["outputs"])[0]["tensor-spec"] == {"dtype": "int64", "shape": [-1, 2]}
    example = np.array(json.loads((folder / "input_example.json").read_text(encoding="utf-8")))
    assert example.shape == (2, 784)
    assert {path.suffix for path in (folder / "data").rglob("*.*")} == {".json", ".safetensors"}
    assert not list(folder.rglob("*.pkl"))


def test_it_is_told_twice_but_there_once(place: tuple[MlflowClient, Run], project: Path) -> None:
    client, run = place
    folder = Path(run.data.tags["folder"])
    state = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    (folder / "run.json").write_text(json.dumps(state | {"synced": False}), encoding="utf-8")
    assert sync_run(None, folder) == run.info.run_id
    assert len(client.search_logged_models(["1"])) == 1
    assert [version.run_id for version in client.search_model_versions("name = 'initlab-half_0-5'")] == [
        run.info.run_id
    ]
    assert len(client.get_run(run.info.run_id).outputs.model_outputs) == 1


def test_any_activation_of_ours(tmp_path: Path) -> None:
    """Its name and constants, of each class, come back; one whose constants are tensors is not written."""
    parts = {"loss": CrossEntropy(3), "pixels": torch.linspace(-1, 1, 256), "example": torch.rand(2, 4)}
    weights, biases = init.draw(init.kaiming(), [4, 3], replicas=2, seed=0)
    phi = activations.ELU(alpha=0.5, shift=0.1, scale=2.0)
    assert logged_model.save(tmp_path / "model", weights, biases, activation=phi, **parts)
    assert pyfunc._load_pyfunc(str(tmp_path / "model" / "data" / "networks")).activation == phi
    assert {cls.__name__ for cls in pyfunc.ACTIVATIONS.values()} == set(FUNCTIONS)
    of_each = activations.Tanh(shift=torch.zeros(2, 1, 1))
    assert not logged_model.save(tmp_path / "other", weights, biases, activation=of_each, **parts)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("tracking.register=perhaps", "tracking.register is 'perhaps'; expected true or false"),
        ("tracking.experiment=a/b", "no model can be registered under 'a/b', which contains / or :"),
    ],
)
def test_what_can_not_be_registered_is_refused(train: Train, word: str, message: str) -> None:
    done = train(*WORDS, "tracking.register=true", word, check=False)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
