"""A run's networks as MLflow loads them. A logged model contains only this file and the files that it imports."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load
from torch import Tensor

from initlab.nn import activations, mlp
from initlab.nn.activations import Activation
from initlab.nn.losses import CrossEntropy, Loss, MeanSquaredError

LOSSES = {loss.__name__: loss for loss in (CrossEntropy, MeanSquaredError)}
ACTIVATIONS = {cls.__name__: cls for cls in Activation.__subclasses__() if cls.__module__ == activations.__name__}
WEIGHTS, SETTINGS = "networks.safetensors", "networks.json"
CHUNK = 500  # images at a time, to bound memory


class Networks:
    """All replicas of a run. weights (R, D, E), biases (R, D, 1): first layer first.

    pixels: what pixels 0..255 are normalised to (256,).
    """

    def __init__(
        self, weights: list[Tensor], biases: list[Tensor], pixels: Tensor, activation: Activation, loss: Loss
    ) -> None:
        self.weights, self.biases, self.pixels = weights, biases, pixels
        self.activation, self.loss = activation, loss

    def predict(self, model_input: np.ndarray, params: dict[str, Any] | None = None) -> np.ndarray:
        """Predicts the class of each image, by each replica: pixels (N, inputs) uint8 -> (N, R) int64."""
        predictions = []
        for images in torch.from_numpy(model_input).split(CHUNK):
            x = self.pixels[images.int()].mT
            z = mlp.forward(x, self.weights, self.biases, self.activation).z[-1]
            predictions.append(self.loss.predict(z).long().T)
        return torch.cat(predictions).numpy()


def _load_pyfunc(path: str) -> Networks:
    """Called by `mlflow.pyfunc.load_model`. path: the data folder that `model.save` wrote."""
    folder = Path(path)
    tensors = load((folder / WEIGHTS).read_bytes())  # not mapped: on Windows a mapped file can't be deleted
    settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    layers = range(1, settings["layers"] + 1)
    return Networks(
        [tensors[f"layer{number}/weight"] for number in layers],
        [tensors[f"layer{number}/bias"] for number in layers],
        tensors["pixels"],
        ACTIVATIONS[settings["activation"]](**settings["constants"]),
        LOSSES[settings["loss"]](settings["classes"]),
    )
