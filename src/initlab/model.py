"""A run's networks as an MLflow model: pixels in, digits out. Weights are safetensors, settings JSON: no pickle."""

import json
import logging
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow
import numpy as np
import torch
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from safetensors.torch import load_file, save_file
from torch import Tensor

from initlab import mlp

logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)

LOSSES = {loss.__name__: loss for loss in (mlp.CrossEntropy, mlp.MeanSquaredError)}
NEEDED = "mlflow", "numpy", "safetensors", "torch"
CODE = "__init__.py", "mlp.py", "model.py"  # and of ours: a file more is a request more, a run, where there is a server
REACHED = "test/accuracy", "val/accuracy", "val/loss"  # metrics that are shown with a model
CHUNK = 500  # images at once, which bounds memory


class Networks:
    """All replicas of a run. weights (R, D, E), biases (R, D, 1), first layer first.

    pixels: what the network sees of a pixel of value 0..255 (256,).
    """

    def __init__(
        self, weights: list[Tensor], biases: list[Tensor], pixels: Tensor, phi: mlp.Activation, loss: mlp.Loss
    ) -> None:
        self.weights, self.biases, self.pixels, self.phi, self.loss = weights, biases, pixels, phi, loss

    def predict(self, model_input: np.ndarray, params: dict[str, Any] | None = None) -> np.ndarray:
        """The digit that each replica sees in each image: pixels (N, inputs) uint8 -> (N, R) int64."""
        found = []
        for images in torch.from_numpy(model_input).split(CHUNK):
            x = self.pixels[images.int()].mT
            z = mlp.forward(x, self.weights, self.biases, self.phi).z[-1]
            found.append(self.loss.predict(z).long().T)
        return torch.cat(found).numpy()


def _load_pyfunc(path: str) -> Networks:
    """What `mlflow.pyfunc.load_model` calls. path: the folder that `save` filled."""
    folder = Path(path)
    tensors = load_file(folder / "networks.safetensors")
    settings = json.loads((folder / "networks.json").read_text())
    layers = range(1, settings["layers"] + 1)
    return Networks(
        [tensors[f"layer{number}/weight"] for number in layers],
        [tensors[f"layer{number}/bias"] for number in layers],
        tensors["pixels"],
        mlp.Activation(**settings["activation"]),
        LOSSES[settings["loss"]](settings["outputs"]),
    )


def save(
    folder: Path,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    *,
    activation: mlp.Activation,
    loss: mlp.Loss,
    pixels: Tensor,
    example: Tensor,
) -> bool:
    """Writes the model to `folder`, whole or not at all; returns whether it did: it can't if the activation or the loss
    is not of `mlp`, or a constant is a tensor.

    weights (R, D, E), biases (R, D, 1), first layer first.
    pixels: what pixels of value 0..255 are normalised to (256,).  example: normalised images (N, inputs), which become
    the model's input example as pixels.
    """
    name = type(loss).__name__
    constants = {key: getattr(activation, key) for key in ("leak", "shift", "scale")}
    known = LOSSES.get(name) is type(loss) and type(activation) is mlp.Activation
    if not known or any(isinstance(constant, Tensor) for constant in constants.values()):
        return False
    replicas, outputs, _ = weights[-1].shape
    settings = {"activation": constants, "loss": name, "outputs": outputs, "layers": len(weights)}
    tensors = {"pixels": pixels}
    for number, (W, b) in enumerate(zip(weights, biases, strict=True), start=1):
        tensors |= {f"layer{number}/weight": W.detach().cpu(), f"layer{number}/bias": b.detach().cpu()}
    partial = folder.with_name(f".{folder.name}.partial")
    for old in (partial, folder):
        shutil.rmtree(old, ignore_errors=True)
    with TemporaryDirectory() as temporary:
        data, code = Path(temporary, "networks"), Path(temporary, "initlab")
        data.mkdir()
        code.mkdir()
        for file in CODE:
            shutil.copy(Path(__file__).with_name(file), code)
        save_file(tensors, data / "networks.safetensors")
        (data / "networks.json").write_text(json.dumps(settings, indent=1) + "\n")
        mlflow.pyfunc.save_model(
            str(partial),
            loader_module=__name__,
            data_path=str(data),
            code_paths=[str(code)],
            signature=ModelSignature(
                Schema([TensorSpec(np.dtype("uint8"), (-1, example.shape[1]))]),
                Schema([TensorSpec(np.dtype("int64"), (-1, replicas))]),
            ),
            input_example=(example.cpu()[..., None] - pixels).abs().argmin(-1).to(torch.uint8).numpy(),
            pip_requirements=[f"{package}=={version(package)}" for package in NEEDED],
        )
    partial.rename(folder)
    return True


def valid_name(name: str) -> str:
    """The same without the characters that MLflow has no models named by."""
    return re.sub(r"[/:.%\"']", "-", name)


def publish(client: MlflowClient, run_id: str, folder: Path, register: str | None) -> None:
    """Tells the store of a run's model: its files, that it is the run's output, what it reached. It may be told twice.

    register: the registered model that it becomes a version of.  Raises MlflowException.
    """
    run = client.get_run(run_id)
    found = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run_id}'")
    model = next(iter(found), None) or client.create_logged_model(
        run.info.experiment_id, valid_name(run.data.tags.get("init", "networks")), run_id, model_type="pyfunc"
    )
    last = {name: client.get_metric_history(run_id, name)[-1] for name in REACHED if name in run.data.metrics}
    if model.model_id not in [output.model_id for output in run.outputs.model_outputs]:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, max(point.step for point in last.values()))])
    client.log_model_artifacts(model.model_id, str(folder))
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    points = [
        Metric(name, point.value, point.timestamp, point.step, model_id=model.model_id) for name, point in last.items()
    ]
    client.log_batch(run_id, metrics=points)
    if register is not None and not client.search_model_versions(f"run_id = '{run_id}'"):
        with suppress(MlflowException):  # there is one
            client.create_registered_model(register, description="Networks of one init scheme.")
        # A server keeps to itself where its models are; a database is not asked, as that would go by a global setting.
        source = f"models:/{model.model_id}" if client.tracking_uri.startswith("http") else model.artifact_location
        client.create_model_version(register, source, run_id, model_id=model.model_id, await_creation_for=0)
