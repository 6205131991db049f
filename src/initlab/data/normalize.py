"""Normalises the raw files: split, subtract the training mean, divide by the training standard deviation."""

import json
from math import sqrt
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from initlab.data import DataError
from initlab.data.digests import file_digest
from initlab.data.dvc_pin import dvc_hash
from initlab.data.idx import CLASSES, read_pair

SCALES = 1e-300, 1e300  # smallest and largest: beyond them, scaled pixels are out of a float's range


def split(folder: Path, validation: int | None) -> dict[str, tuple[Tensor, Tensor]]:
    """Returns {split: (images (N, 784), labels (N,))}, uint8.

    validation: number of images to hold out from the end of the training file. None holds out none, and uses the test
    file for validation too.
    Raises DataError if the files are damaged or do not match, or for a number out of range.
    """
    images, labels = read_pair(folder, "train")
    test = read_pair(folder, "t10k")
    if test[0].shape[1] != images.shape[1]:
        raise DataError(f"t10k: an image is {test[0].shape[1]:,} pixels; in the training file {images.shape[1]:,}")
    if validation is None:
        return {"train": (images, labels), "validation": test, "test": test}
    if type(validation) is not int or not 0 < validation < len(images):
        raise DataError(f"validation is {validation!r}; expected null or a whole number from 1 to {len(images) - 1:,}")
    kept = len(images) - validation
    return {
        "train": (images[:kept], labels[:kept]),
        "validation": (images[kept:], labels[kept:]),
        "test": test,
    }


def pixel_moments(images: Tensor) -> tuple[float, float]:
    """Returns mean and standard deviation (n - 1) of uint8 pixels.

    They are computed from exact integer sums, so they are the same on every machine.
    """
    counts = torch.bincount(images.flatten(), minlength=256).tolist()
    n = sum(counts)
    first = sum(value * count for value, count in enumerate(counts))
    second = sum(value**2 * count for value, count in enumerate(counts))
    return first / n, sqrt((n * second - first**2) / (n * (n - 1)))


def pixel_values(mean: float, std: float, scale: float) -> Tensor:
    """Returns (pixel / scale - mean) / std for pixels 0..255, computed in float64: (256,) float32."""
    return ((torch.arange(256, dtype=torch.float64) / scale - mean) / std).float()


def write_normalized(raw: Path, folder: Path, *, validation: int | None, scale: float) -> dict:
    """Normalises the raw files and writes them to `folder`: images (N, 784) float32, labels (N,) int64, and facts.json.

    Pixels are divided by `scale`, then normalised with the training mean and std, in all three splits.  validation: see
    `split`.
    Returns the facts. Raises DataError if the raw files or a value can't be used.
    """
    if not isinstance(scale, (int, float)) or isinstance(scale, bool) or not SCALES[0] <= scale <= SCALES[1]:
        raise DataError(f"scale is {scale!r}; expected a positive number, {SCALES[0]} to {SCALES[1]}")
    scale = float(scale)
    splits = split(raw, validation)
    mean, std = (value / scale for value in pixel_moments(splits["train"][0]))
    if std == 0:
        raise DataError(f"{raw}: every training pixel has the same value")
    table = pixel_values(mean, std, scale)
    inputs = splits["train"][0].shape[1]
    facts: dict = {"raw": dvc_hash(raw), "scale": scale, "mean": mean, "std": std, "inputs": inputs, "classes": CLASSES}
    facts["splits"] = {}
    folder.mkdir(parents=True, exist_ok=True)
    for name, (images, labels) in splits.items():
        path = folder / f"{name}.safetensors"
        save_file({"images": table[images.int()], "labels": labels.long()}, path)
        pixel_mean, pixel_std = pixel_moments(images)
        facts["splits"][name] = {
            "images": len(images),
            "mean": (pixel_mean / scale - mean) / std,
            "std": pixel_std / scale / std,
            "sha256": file_digest(path, "sha256"),
        }
    (folder / "facts.json").write_text(json.dumps(facts, indent=2) + "\n")
    return facts


def describe(name: str, facts: dict) -> str:
    """Formats the facts as the normalize stage prints them: one line for the data set, one per split."""
    lines = [f"{name}: training mean {facts['mean']:.4f}, std {facts['std']:.4f}; {facts['classes']} classes"]
    for split_name, fact in facts["splits"].items():
        size = f"{fact['images']} x {facts['inputs']}"
        mean = f"{fact['mean']:.4f}".replace("-0.0000", "0.0000")
        lines.append(f"  {split_name:<10} {size:>11}   normalised mean {mean:>7}, std {fact['std']:.4f}")
    return "\n".join(lines)
