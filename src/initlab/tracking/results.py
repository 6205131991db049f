"""The results of a sweep in a folder: everything that a report is made from.

replicas.csv           every value of every replica: one row per (run, step, replica), swept keys before `step`
runs.json              {run: {"overrides", "config", "theory": expected statistics of its layers}}
tensors.safetensors    {"RUN layer1/histogram": ...}: what the figures of a run are drawn from
"""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from initlab import atomic_files
from initlab.tracking.artifacts import REPLICAS, RUNS, TENSORS


class Results(NamedTuple):
    """The results of a sweep.

    replicas: the table.  runs: {run: {"overrides", "config", "theory": {}}}.  tensors: {run: {name: tensor}}.
    """

    replicas: pd.DataFrame
    runs: dict[str, dict[str, Any]]
    tensors: dict[str, dict[str, Tensor]]


def save(results: Results, folder: Path) -> None:
    """Writes the three files. The table goes first and comes last: if it is there, all are, and of the same sweep."""
    flat = {f"{run} {name}": tensor for run, named in results.tensors.items() for name, tensor in named.items()}
    (folder / REPLICAS).unlink(missing_ok=True)
    atomic_files.write(folder / TENSORS, save_tensors(flat))
    atomic_files.write(folder / RUNS, (json.dumps(results.runs, indent=1) + "\n").encode())
    atomic_files.write(folder / REPLICAS, results.replicas.to_csv(index=False, lineterminator="\n").encode())


def load(folder: Path) -> Results:
    """Reads what `save` wrote. Raises FileNotFoundError, naming the file, if one is missing."""
    for name in (REPLICAS, RUNS, TENSORS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} holds no {name}, which a sweep leaves in its folder")
    runs = json.loads((folder / RUNS).read_text(encoding="utf-8"))
    tensors: dict[str, dict[str, Tensor]] = {run: {} for run in runs}
    for flat, tensor in load_tensors((folder / TENSORS).read_bytes()).items():
        run, _, name = flat.rpartition(" ")
        tensors[run][name] = tensor
    return Results(pd.read_csv(folder / REPLICAS), runs, tensors)


def digest(folder: Path) -> str:
    """Returns the SHA-256 of the table of replicas, by which a sweep's parent run is found."""
    return hashlib.sha256((folder / REPLICAS).read_bytes()).hexdigest()
