"""A run's networks as an MLflow model from pixels to classes. Weights are safetensors, settings are JSON: no pickle."""

import json
import logging
import shutil
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
import numpy as np
import torch
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from safetensors.torch import save_file
from torch import Tensor

from initlab import atomic_files
from initlab.nn import activations, losses, mlp
from initlab.tracking import pyfunc
from initlab.tracking.artifacts import registry_name

logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)

PACKAGE = Path(__file__).parents[1]
MODULES = activations, losses, mlp, pyfunc  # the code logged with a model: each file is a request to the server
REQUIREMENTS = "mlflow", "numpy", "safetensors", "torch"
REACHED = "test/accuracy", "val/accuracy", "val/loss"  # metrics shown with a model, and with a sweep


def save(
    folder: Path,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    *,
    activation: activations.Activation,
    loss: losses.Loss,
    pixels: Tensor,
    example: Tensor,
) -> bool:
    """Writes the model to `folder`, completely or not at all. Returns whether it was written.

    It is not written if the activation or the loss is not one of `initlab.nn`, or if a constant is a tensor.
    weights (R, D, E), biases (R, D, 1): first layer first.  pixels: what pixels 0..255 are normalised to (256,).
    example: normalised images (N, inputs), which become the model's input example as pixels.
    """
    known = type(loss) in pyfunc.LOSSES.values() and type(activation) in pyfunc.ACTIVATIONS.values()
    if not known or any(isinstance(constant, Tensor) for constant in activation.constants.values()):
        return False
    replicas = len(weights[-1])
    settings = {
        "activation": type(activation).__name__,
        "constants": activation.constants,
        "loss": type(loss).__name__,
        "classes": loss.classes,  # type: ignore[attr-defined]
        "layers": len(weights),
    }
    tensors = {"pixels": pixels}
    for number, (W, b) in enumerate(zip(weights, biases, strict=True), start=1):
        tensors |= {f"layer{number}/weight": W.detach().cpu(), f"layer{number}/bias": b.detach().cpu()}
    partial = folder.with_name(f".{folder.name}.partial")
    for old in (partial, folder):
        shutil.rmtree(old, ignore_errors=True)
    with TemporaryDirectory() as temporary:
        data, code = Path(temporary, "networks"), Path(temporary, "initlab")
        data.mkdir()
        _copy_code(code)
        save_file(tensors, data / pyfunc.WEIGHTS)
        (data / pyfunc.SETTINGS).write_bytes((json.dumps(settings, indent=1) + "\n").encode())
        mlflow.pyfunc.save_model(
            str(partial),
            loader_module=pyfunc.__name__,
            data_path=str(data),
            code_paths=[str(code)],
            signature=ModelSignature(
                Schema([TensorSpec(np.dtype("uint8"), (-1, example.shape[1]))]),
                Schema([TensorSpec(np.dtype("int64"), (-1, replicas))]),
            ),
            input_example=(example.cpu()[..., None] - pixels).abs().argmin(-1).to(torch.uint8).numpy(),
            pip_requirements=[f"{package}=={version(package)}" for package in REQUIREMENTS],
        )
    atomic_files.replace(partial, folder)
    return True


def _copy_code(folder: Path) -> None:
    """Copies the modules that a model needs, and the __init__.py of their packages, to `folder`."""
    files = {Path(str(module.__file__)) for module in MODULES}
    packages = {parent / "__init__.py" for file in files for parent in file.parents if parent.is_relative_to(PACKAGE)}
    for file in files | packages:
        target = folder / file.relative_to(PACKAGE)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)


def publish(client: MlflowClient, run_id: str, folder: Path, register: str | None) -> None:
    """Logs a run's model: its files, its link to the run, and the metrics it reached. May be called twice.

    register: the registered model that it becomes a version of, if any.  Raises MlflowException.
    """
    run = client.get_run(run_id)
    logged = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run_id}'")
    model = next(iter(logged), None) or client.create_logged_model(
        run.info.experiment_id, registry_name(run.data.tags.get("init", "networks")), run_id, model_type="pyfunc"
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
        with suppress(MlflowException):  # it exists already
            client.create_registered_model(register, description="Networks of one init scheme.")
        # A server hides where its models are. For a database, a models:/ URI would be resolved by a global setting.
        source = f"models:/{model.model_id}" if client.tracking_uri.startswith("http") else model.artifact_location
        client.create_model_version(register, source, run_id, model_id=model.model_id, await_creation_for=0)
