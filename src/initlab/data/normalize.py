"""Normalises the raw files: split, subtract the training mean, divide by the training standard deviation."""

import json
from collections.abc import Mapping, Sequence
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors.torch import save
from torch import Tensor
from yaml import YAMLError

from initlab import atomic_files
from initlab.data import DataError
from initlab.data.digests import file_digest
from initlab.data.dvc_pin import dvc_hash
from initlab.data.idx import PREFIXES, read_pair

SCALES = 1e-300, 1e300  # smallest and largest: beyond them, scaled pixels are out of a float's range
REQUIRED, OPTIONAL = {"validation", "scale"}, {"prefixes", "transpose"}  # keys of a data set's YAML file
PREFIX_TYPES = dict.fromkeys(PREFIXES, str)
FOR_TRAINING = {"folder", "pin", "batch_size"}  # keys that say nothing about normalisation


def read_settings(path: Path) -> tuple[str | None, dict[str, Any]]:
    """Reads a data set's YAML file: its pin, and how `write_normalized` makes it.

    Raises OSError if the file can't be read, DataError for a key that is missing or unknown, or for prefixes and
    transpose that can't be used.
    """
    try:
        found = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (YAMLError, OmegaConfBaseException) as error:
        raise DataError(f"{path}: {' '.join(str(error).split())}") from error
    settings: dict[str, Any] = {str(key): value for key, value in found.items()} if isinstance(found, dict) else {}
    if missing := REQUIRED - settings.keys():
        raise DataError(f"{path} has no key {min(missing)}")
    if unknown := settings.keys() - REQUIRED - OPTIONAL - FOR_TRAINING:
        known = ", ".join(sorted(REQUIRED | OPTIONAL | FOR_TRAINING))
        raise DataError(f"{path} has a key {min(unknown)}; expected some of {known}")
    prefixes, transpose = settings.get("prefixes", PREFIXES), settings.get("transpose", False)
    if not isinstance(prefixes, dict) or {key: type(value) for key, value in prefixes.items()} != PREFIX_TYPES:
        raise DataError(f"{path}: prefixes is {prefixes!r}; expected `train` and `test`, what file names begin with")
    if not isinstance(transpose, bool):
        raise DataError(f"{path}: transpose is {transpose!r}; expected true or false")
    return settings.get("pin"), {key: settings[key] for key in settings.keys() - FOR_TRAINING}


def split(
    folder: Path, validation: int | None, *, prefixes: Mapping[str, str] = PREFIXES, transpose: bool = False
) -> dict[str, tuple[Tensor, Tensor]]:
    """Returns {split: (images (N, inputs), labels (N,))}, uint8, as they are in the files.

    validation: number of images to hold out from the end of the training file. None holds out none, and uses the test
    file for validation too.  prefixes: what the names of the files begin with, {"train": ..., "test": ...}.
    transpose: see `read_pair`.
    Raises DataError if the files are damaged or do not match, or for a number out of range.
    """
    images, labels = read_pair(folder, prefixes["train"], transpose=transpose)
    test = read_pair(folder, prefixes["test"], transpose=transpose)
    if test[0].shape[1] != images.shape[1]:
        raise DataError(
            f"{prefixes['test']}: an image is {test[0].shape[1]:,} pixels; in the training file {images.shape[1]:,}"
        )
    known = labels.unique()
    if len(known) < 2:
        raise DataError(f"{prefixes['train']}: all labels are {known.item()}; expected at least 2 classes")
    unknown = test[1][~torch.isin(test[1], known)]
    if len(unknown):
        raise DataError(
            f"{prefixes['test']}: a label is {unknown[0]}; in the training file they are {_listed(known.tolist())}"
        )
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


def write_normalized(
    raw: Path,
    folder: Path,
    *,
    validation: int | None,
    scale: float,
    prefixes: Mapping[str, str] = PREFIXES,
    transpose: bool = False,
) -> dict:
    """Normalises the raw files and writes them to `folder`: images (N, inputs) float32, classes (N,) int64, facts.json.

    Pixels are divided by `scale`, then normalised with the training mean and std, in all three splits. There is a class
    for each label that occurs, numbered from 0 in the order of the labels. The facts list `labels` if they are not the
    numbers of the classes themselves.  validation, prefixes, transpose: see `split`.
    Returns the facts. Raises DataError if the raw files or a value can't be used.
    """
    if not isinstance(scale, (int, float)) or isinstance(scale, bool) or not SCALES[0] <= scale <= SCALES[1]:
        raise DataError(f"scale is {scale!r}; expected a positive number, {SCALES[0]} to {SCALES[1]}")
    scale = float(scale)
    splits = split(raw, validation, prefixes=prefixes, transpose=transpose)
    mean, std = (value / scale for value in pixel_moments(splits["train"][0]))
    if std == 0:
        raise DataError(f"{raw}: every training pixel has the same value")
    table = pixel_values(mean, std, scale)
    inputs = splits["train"][0].shape[1]
    found = torch.cat([labels for _, labels in splits.values()]).unique().tolist()
    numbers = torch.zeros(256, dtype=torch.int64)
    numbers[found] = torch.arange(len(found))
    facts: dict = {"raw": dvc_hash(raw, prefixes), "scale": scale, "mean": mean, "std": std, "inputs": inputs}
    facts |= {"classes": len(found), "splits": {}}
    if found != list(range(len(found))):
        facts["labels"] = found
    for name, (images, labels) in splits.items():
        path = folder / f"{name}.safetensors"
        # A run may have mapped the file that this replaces.
        atomic_files.write(path, save({"images": table[images.int()], "labels": numbers[labels.int()]}))
        pixel_mean, pixel_std = pixel_moments(images)
        facts["splits"][name] = {
            "images": len(images),
            "mean": (pixel_mean / scale - mean) / std,
            "std": pixel_std / scale / std,
            "sha256": file_digest(path, "sha256"),
        }
    atomic_files.write(folder / "facts.json", (json.dumps(facts, indent=2) + "\n").encode())
    return facts


def describe(name: str, facts: dict) -> str:
    """Formats the facts as the normalize stage prints them: one line for the data set, one per split."""
    labels = f", labels {_listed(facts['labels'])}" if "labels" in facts else ""
    lines = [f"{name}: training mean {facts['mean']:.4f}, std {facts['std']:.4f}; {facts['classes']} classes{labels}"]
    for split_name, fact in facts["splits"].items():
        size = f"{fact['images']} x {facts['inputs']}"
        mean = f"{fact['mean']:.4f}".replace("-0.0000", "0.0000")
        lines.append(f"  {split_name:<10} {size:>11}   normalised mean {mean:>7}, std {fact['std']:.4f}")
    return "\n".join(lines)


def _listed(labels: Sequence[int]) -> str:
    """Formats sorted labels: a range if none is left out."""
    first, last = labels[0], labels[-1]
    return f"{first} to {last}" if last - first == len(labels) - 1 else ", ".join(map(str, labels))
