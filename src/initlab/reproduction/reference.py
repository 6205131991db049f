"""A reference: what published results must agree with, small enough for git.

replicas.csv     every statistic at step 0, the first training losses and the final values, of every replica
origin.json      {"format", "commit", "machine", "packages": what made them, "sha256": of both files,
                 "data": {folder: {split: SHA-256}},
                 "runs": {run: {"overrides", "config", "inputs", "outputs", "probe"}},
                 "growth": {run: {step: how much rounding changes the training loss, relative}}}
comparison.md    the final values as a table
overview.svg     the report's first figure
"""

import hashlib
import json
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from initlab.data import DataError, normalized_files
from initlab.reproduction.verdict import Growth, Numbers
from initlab.tracking.results import Results

FORMAT = 1
ORIGIN, REPLICAS = "origin.json", "replicas.csv"
KEYS = ["run", "step", "replica"]
MAKE = "initlab reproduce --make-reference makes a new one"


class UnreadableReferenceError(ValueError):
    """There is no reference that could be read."""


def read(folder: Path) -> Numbers:
    """Reads a reference.

    Raises UnreadableReferenceError, in one line, if it is missing, damaged or of another format.
    """
    try:
        content = (folder / REPLICAS).read_bytes()
        origin = json.loads((folder / ORIGIN).read_text(encoding="utf-8"))
        if origin["format"] != FORMAT:
            raise UnreadableReferenceError(f"{folder} has format {origin['format']!r}; expected {FORMAT}: {MAKE}")
        if digest(origin, content) != origin["sha256"]:
            raise UnreadableReferenceError(f"{folder}: {ORIGIN} or {REPLICAS} is damaged, by their SHA-256; {MAKE}")
        table = pd.read_csv(BytesIO(content))
        table[table.columns.difference(KEYS)] = table[table.columns.difference(KEYS)].astype(np.float32)
        grown = {run: {int(step): float(value) for step, value in g.items()} for run, g in origin["growth"].items()}
        return Numbers(table, dict(origin["runs"]), dict(origin["data"]), grown)
    except OSError as error:
        raise UnreadableReferenceError(f"{folder} holds no {Path(error.filename).name}; {MAKE}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, UnreadableReferenceError):
            raise
        raise UnreadableReferenceError(f"{folder / ORIGIN} is damaged ({error!r}); {MAKE}") from None


def digest(origin: Mapping[str, Any], replicas: bytes) -> str:
    """Returns the SHA-256 of what origin.json says, but for this, and of the bytes of replicas.csv."""
    said = json.dumps({key: value for key, value in origin.items() if key != "sha256"}, sort_keys=True)
    return hashlib.sha256(said.encode() + replicas).hexdigest()


def numbers(results: Results, grown: Mapping[str, Growth] | None = None) -> Numbers:
    """Returns what is compared of a sweep's results. The data are those that its runs' `data.folder` has now.

    Raises ValueError if a run has no replicas that were measured at step 0.
    """
    table = results.replicas
    measured = set(table.loc[table["step"] == 0, "run"]) if set(KEYS) <= set(table) else set()
    for run in results.runs:
        if run not in measured:
            raise ValueError(f"the results' {REPLICAS} has no replicas of {run} at step 0, which are compared")
    runs = {
        name: {
            "overrides": record["overrides"],
            "config": record["config"],
            "inputs": results.tensors[name]["layer1/weight"].shape[-1],
            "outputs": record["theory"]["outputs"],
            "probe": record["theory"].get("probe", record["config"]["stats"]["probe"]),
        }
        for name, record in results.runs.items()
    }
    folders = dict.fromkeys(record["config"]["data"]["folder"] for record in runs.values())
    return Numbers(results.replicas, runs, {folder: digests(Path(folder)) for folder in folders}, grown or {})


def digests(folder: Path) -> Mapping[str, str]:
    """Returns {split: SHA-256} of normalised data, as their facts have it; nothing if they are not here."""
    try:
        return {name: fact["sha256"] for name, fact in normalized_files.read_facts(folder)["splits"].items()}
    except DataError:
        return {}
