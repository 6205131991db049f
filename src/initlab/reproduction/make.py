"""Makes a reference of results."""

import json
from math import isfinite
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch

from initlab import atomic_files, report
from initlab.reproduction import growth
from initlab.reproduction.reference import FORMAT, KEYS, ORIGIN, REPLICAS, digest, numbers
from initlab.reproduction.verdict import LOSS, STEPS, last_step
from initlab.tracking import provenance
from initlab.tracking.results import Results

PICTURES = ("comparison.md", "overview.svg")  # of the report
FINAL = ["val/loss", "val/accuracy", "test/loss", "test/accuracy"]


def make_reference(results: Results, folder: Path) -> None:
    """Writes a reference from results that were made on this machine, and measures how fast rounding grows in them.

    origin.json comes last: if it is there, all files are. Raises ValueError if a run was not tested, or lacks its data.
    """
    found = numbers(results)
    table = results.replicas
    for run in found.runs:
        if not last_step(table[table["run"] == run]):
            raise ValueError(f"{run} has no test/accuracy; a reference is made of finished runs")
    for name, splits in found.data.items():
        if not splits:
            raise ValueError(f"{name} holds no normalised data, whose digests a reference has")
    grown = growth.measure(found.runs, table)
    content = _small(table).to_csv(index=False, lineterminator="\n").encode()
    tags = provenance.tags()
    origin: dict[str, Any] = {
        "format": FORMAT,
        "commit": tags.get("git.commit"),
        "changed since": tags.get("git.dirty") == "True",
        "machine": provenance.machine(torch.device("cpu")),
        "packages": {name: number for name, number in provenance.packages().items() if name in provenance.PACKAGES},
        "data": found.data,
        "growth": {run: {str(s): g for s, g in steps.items() if isfinite(g)} for run, steps in grown.items()},
        "runs": found.runs,
    }
    origin["sha256"] = digest(origin, content)
    with TemporaryDirectory() as drawn:
        report.write(report.lay_out(results), Path(drawn))
        (folder / ORIGIN).unlink(missing_ok=True)
        for name in PICTURES:
            atomic_files.write(folder / name, Path(drawn, name).read_bytes())
    atomic_files.write(folder / REPLICAS, content)
    atomic_files.write(folder / ORIGIN, (json.dumps(origin, indent=1) + "\n").encode())


def _small(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows and columns of a table of replicas that a reference has, as float32."""
    last = table["step"] == table.groupby("run")["step"].transform("max")
    table = table[(table["step"] <= STEPS) | last]
    layers = [name for name in table if name.startswith("layer")]
    values = table[[*layers, LOSS, *FINAL]].astype(np.float32)
    values.loc[table["step"] > 0, layers] = np.nan
    return pd.concat([table[KEYS], values], axis=1)
