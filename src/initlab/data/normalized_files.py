"""Reads and verifies the normalised data set that the normalize stage wrote."""

import json
from collections.abc import Mapping
from functools import cache
from math import isfinite
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from initlab.data import DataError
from initlab.data.digests import has_digest

SPLITS = ("train", "validation", "test")
FACTS = {"raw": str, "scale": float, "mean": float, "std": float, "inputs": int, "classes": int, "splits": dict}
SPLIT_FACTS = {"images": int, "mean": float, "std": float, "sha256": str}


def read_facts(folder: Path) -> dict:
    """Reads what `normalize` noted: scale, mean, std, inputs, classes, and the size and SHA-256 of each split.

    `labels`, those of the classes in the raw files, is there if they are not 0 to classes - 1.

    Raises DataError if it is missing or damaged.
    """
    try:
        facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        if not _are_facts(facts):
            raise ValueError("not what the normalize stage writes")
    except OSError:
        raise DataError(
            f"{folder.absolute()} holds no normalised data; in the project's root, make it with: dvc repro normalize"
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{folder}/facts.json: {error}; make it again with: dvc repro -f normalize") from None
    return facts


@cache
def verify(folder: Path) -> None:
    """Checks, once per process, that the files are the ones `normalize` wrote. Raises DataError if not."""
    for name, fact in read_facts(folder)["splits"].items():
        if not has_digest(folder / f"{name}.safetensors", fact["sha256"], "sha256"):
            raise DataError(
                f"{folder}/{name}.safetensors is missing or damaged; make it again with: dvc repro -f normalize"
            )


def load(folder: Path, name: str) -> tuple[Tensor, Tensor]:
    """Loads images (N, inputs) float32 and labels (N,) int64 of a split, after verification. The file is memory-mapped.

    Raises DataError if a file is missing or damaged.
    """
    verify(folder)
    tensors = load_file(folder / f"{name}.safetensors")
    return tensors["images"], tensors["labels"]


def _are_facts(found: object) -> bool:
    """Returns whether `found` has exactly the entries that `normalize` writes, of the right types and in range."""

    def like(values: object, kinds: Mapping[str, type]) -> bool:
        return isinstance(values, dict) and {name: type(value) for name, value in values.items()} == kinds

    def in_range(value: object) -> bool:
        return not ((isinstance(value, float) and not isfinite(value)) or (isinstance(value, int) and value < 1))

    if not isinstance(found, dict):
        return False
    found = dict(found)
    labels = found.pop("labels", None)
    if not like(found, FACTS) or found["splits"].keys() != set(SPLITS):
        return False
    if labels is not None and (
        not isinstance(labels, list) or len(labels) != found["classes"] or {type(label) for label in labels} != {int}
    ):
        return False
    splits = found["splits"].values()
    return all(like(split, SPLIT_FACTS) for split in splits) and all(
        in_range(value) for facts in (found, *splits) for value in facts.values()
    )
