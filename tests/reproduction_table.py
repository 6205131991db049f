"""python tests/reproduction_table.py: what `initlab reproduce` says of results that are right, and of wrong ones.

It writes the tables of docs/reliability.md. The reference is the project's own; data/normalized has to be there. Each
row is a process that trains some runs under a condition. Its results are kept in a folder (--folder), and rows whose
results are there are not trained again.
"""

import argparse
import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from hashlib import sha256
from itertools import combinations, product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from hydra import compose, initialize_config_dir
from numpy.random import Generator
from safetensors.torch import save_file

from initlab.data.normalize import write_normalized
from initlab.data.normalized_files import load, read_facts
from initlab.nn.init import VarianceScaling
from initlab.reproduction import growth, reference
from initlab.reproduction.verdict import T_LEVEL, Numbers, compare, sentence
from initlab.sweep.config import run_config
from initlab.tracking.run_logger import start_run
from initlab.training.fit import train

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reliability.md"
SHORT = ("trainer.max_epochs=1", "+trainer.limit_train_batches=400")
ALL = tuple(path.stem for path in sorted((ROOT / "conf" / "init").glob("*.yaml")))
SOME = ("kaiming", "shifted_relu", "pytorch", "kaiming_leaky")
REPEATED = ("kaiming", "pytorch", "unit_relu")
REPEATS = 20
MODELS = ("shallow", "deep")


class WithBiases(VarianceScaling):
    """Kaiming's weights, and biases as torch.nn.Linear draws them."""

    def bias(self, fan_out: int, fan_in: int, *, generator: Generator) -> np.ndarray:
        return ((2 * generator.random(fan_out) - 1) / np.sqrt(fan_in)).astype(np.float32)


class Row(NamedTuple):
    """A condition. words: overrides.  data: makes other normalised data.  settings: environment variables."""

    what: str
    inits: tuple[str, ...] = SOME
    words: tuple[str, ...] = SHORT
    data: Callable[[Path], None] | None = None
    settings: Mapping[str, str] = {}
    trial: int | None = None


def flipped_labels(folder: Path) -> None:
    """One label in a thousand of the file of training images is another."""
    raw = folder / "raw"
    shutil.copytree(ROOT / "data" / "raw", raw)
    file = raw / "train-labels-idx1-ubyte.gz"
    labels = bytearray(gzip.decompress(file.read_bytes()))
    for image in np.random.default_rng(0).choice(60_000, 60, replace=False):
        labels[8 + image] = (labels[8 + image] + 1) % 10
    file.chmod(0o644)
    file.write_bytes(gzip.compress(bytes(labels)))
    write_normalized(raw, folder / "data", validation=10_000, scale=256)


def by_255(folder: Path) -> None:
    write_normalized(ROOT / "data" / "raw", folder / "data", validation=10_000, scale=255)


def by_255_with_the_constants_of_256(folder: Path) -> None:
    facts = read_facts(ROOT / "data" / "normalized" / "mnist")
    mean, std = facts["mean"], facts["std"]
    _rewrite(folder / "data", lambda images: ((images * std + mean) * (256 / 255) - mean) / std)


def validation_images_too(folder: Path) -> None:
    _rewrite(folder / "data", lambda images: images, join=True)


def _rewrite(folder: Path, change: Callable[[torch.Tensor], torch.Tensor], *, join: bool = False) -> None:
    """Writes the normalised images again, changed; join: with the validation images among the training images."""
    origin = ROOT / "data" / "normalized" / "mnist"
    facts = read_facts(origin)
    splits = {name: load(origin, name) for name in facts["splits"]}
    if join:
        both = zip(splits["train"], splits["validation"], strict=True)
        splits["train"] = tuple(torch.cat(pair) for pair in both)
    folder.mkdir(parents=True)
    for name, (images, labels) in splits.items():
        file = folder / f"{name}.safetensors"
        save_file({"images": change(images).contiguous(), "labels": labels.contiguous()}, file)
        facts["splits"][name] |= {"images": len(labels), "sha256": sha256(file.read_bytes()).hexdigest()}
    (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")


BIASES = f"init.weights._target_={__name__ if __name__ != '__main__' else 'reproduction_table'}.WithBiases"
RIGHT = {
    "avx2": Row("`ATEN_CPU_CAPABILITY=avx2`", ALL, (), settings={"ATEN_CPU_CAPABILITY": "avx2"}),
    "default": Row("`ATEN_CPU_CAPABILITY=default`", ALL, (), settings={"ATEN_CPU_CAPABILITY": "default"}),
    "mkl": Row("`MKL_CBWR=COMPATIBLE`", ALL, (), settings={"MKL_CBWR": "COMPATIBLE"}),
    "one": Row("`OMP_NUM_THREADS=1`", ALL, (), settings={"OMP_NUM_THREADS": "1"}),
    "two": Row("`OMP_NUM_THREADS=2`", ALL, (), settings={"OMP_NUM_THREADS": "2"}),
    "medium": Row("`matmul_precision=medium`", ALL, ("matmul_precision=medium",)),
    "by_255": Row(
        "pixels / 255 for 256, normalised by their own mean and std: the same data, to the byte", data=by_255
    ),
}
WRONG = {
    "lr": Row("learning rate 0.049 for 0.05", words=(*SHORT, "optimizer.lr=0.049")),
    "batch": Row("batch size 63 for 64", words=(*SHORT, "data.batch_size=63")),
    "gain": Row("gain 1.98 for 2", ("kaiming", "shifted_relu"), (*SHORT, "+init.weights.gain=1.98")),
    "gain_medium": Row(
        "gain 1.98 for 2, `matmul_precision=medium`",
        ("kaiming", "shifted_relu"),
        (*SHORT, "+init.weights.gain=1.98", "matmul_precision=medium"),
    ),
    "shift": Row("shift 0.49 for 0.5", ("shifted_relu",), (*SHORT, "activation.shift=0.49")),
    "seed": Row("seed 1 for 0", words=(*SHORT, "seed=1")),
    "labels": Row("one label in a thousand flipped", data=flipped_labels),
    "by_255_only": Row(
        "pixels / 255 for 256, normalised by the mean and std of pixels / 256", data=by_255_with_the_constants_of_256
    ),
    "validation": Row("validation images among the training images", data=validation_images_too),
    "leak": Row("leak 0.01 for 0", ("kaiming",), (*SHORT, "init.weights.leak=0", "activation.leak=0.01")),
    "biases": Row(
        "biases drawn where they should be 0",
        ("kaiming",),
        (*SHORT, "~init.weights.leak", BIASES, "+init.weights.scale=2"),
    ),
}
POWER = {
    f"power_{name}_{value}": Row(f"{said} {value} for {right}", ("kaiming",), (word.format(value),))
    for name, said, right, word, values in (
        ("lr", "learning rate", "0.05", "optimizer.lr={}", (0.049, 0.045, 0.04, 0.03, 0.02, 0.01)),
        ("gain", "gain", "2", "+init.weights.gain={}", (1.98, 1.8, 1.5, 1.0, 0.2)),
    )
    for value in values
}
REPEATED_ROWS = {f"repeat{trial}": Row("", REPEATED, (), trial=trial) for trial in range(REPEATS)}
ROWS = {**RIGHT, **WRONG, **POWER, **REPEATED_ROWS}


def make(key: str, folder: Path) -> None:
    """Trains the runs of a row, and writes their results."""
    row = ROWS[key]
    data = ROOT / "data" / "normalized" / "mnist"
    if row.data is not None:
        shutil.rmtree(folder / key, ignore_errors=True)
        row.data(folder / key)
        data = folder / key / "data"
    tables, runs = [], {}
    for init, model in product(row.inits, MODELS):
        name = f"init={init},model={model}"
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            words = [f"init={init}", f"model={model}", *row.words, f"data.folder={data}", "data.pin=null"]
            config = run_config(compose("config", words))
        trained = growth.perturbed(config, row.trial) if row.trial is not None else config
        place = folder / key / name
        shutil.rmtree(place, ignore_errors=True)
        uri = f"sqlite:///{folder / key / 'mlflow.db'}"
        with start_run(uri=uri, experiment="any", folder=place, name=name, config=trained) as run:
            train(trained, run)
        tables.append(run.journal.replicas().assign(run=name))
        runs[name] = {
            "overrides": {},
            "config": config,
            "inputs": 784,
            "outputs": 10,
            "probe": config["stats"]["probe"],
        }
        print(key, name, flush=True)
    pd.concat(tables).to_csv(folder / key / "replicas.csv", index=False)
    (folder / key / "runs.json").write_text(
        json.dumps({"runs": runs, "data": {str(data): reference.digests(data)}}), encoding="utf-8"
    )


def made(key: str, folder: Path) -> Numbers:
    """The results of a row, made by another process if they are not there."""
    if not (folder / key / "runs.json").exists():
        words = [sys.executable, __file__, "--folder", str(folder), "--train", key]
        path = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
        subprocess.run(words, env=os.environ | {"PYTHONPATH": path} | dict(ROWS[key].settings), check=True)
    record = json.loads((folder / key / "runs.json").read_text(encoding="utf-8"))
    return Numbers(pd.read_csv(folder / key / "replicas.csv"), record["runs"], record["data"], {})


def power(known: Numbers, folder: Path) -> list[str]:
    """The table of what tests of final values find alone, if it is one of 22 runs that is wrong."""
    lines = [
        "| what is wrong | "
        + " | ".join(f"{model}: {what}" for model in MODELS for what in ("accuracy", "loss"))
        + " |"
    ]
    lines.append("|---" * 5 + "|")
    least = T_LEVEL / (2 * len(known.runs))  # Holm's first step
    for key, row in POWER.items():
        found = compare(known, made(key, folder))
        cells = []
        for model, (what, unit) in product(MODELS, (("test/accuracy", 100), ("test/loss", 1))):
            (test,) = (r for r in found if r.run == f"init=kaiming,model={model}" and r.what == what)
            assert test.difference is not None
            assert test.bound is not None
            assert test.p is not None
            mark = "**" if test.p <= least else ""
            points = " points" if unit == 100 else ""
            cells.append(f"{mark}{unit * test.difference:+.2g} ± {unit * test.bound:.1g}{points}{mark}")
        lines.append(f"| {row.what} | {' | '.join(cells)} |")
    return lines


def write(begin: str, end: str, lines: list[str]) -> None:
    """Writes lines between two comments of the page."""
    begin, end = f"<!-- {begin} -->\n", f"<!-- {end} -->"
    before, rest = PAGE.read_text(encoding="utf-8").split(begin)
    PAGE.write_text(before + begin + "\n".join(lines) + "\n" + end + rest.split(end)[1], encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / "outputs" / "reproduction", help="where results are kept")
    parser.add_argument("--reference", type=Path, default=ROOT / "reference")
    parser.add_argument("--train", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.train:
        make(chosen.train, chosen.folder)
        return 0
    known = reference.read(chosen.reference)
    lines = ["| condition | runs | verdict |", "|---|---|---|"]
    wrong = 0
    for key, row in RIGHT.items():
        said = sentence(compare(known, made(key, chosen.folder)))
        wrong += not said.startswith("reproduced")
        lines.append(f"| {row.what} | {2 * len(row.inits)} | {said} |")
    lines += [
        "",
        "| what is wrong | runs | that differ | by the numbers alone, without the digests of the data |",
        "|---|---|---|---|",
    ]
    for key, row in WRONG.items():
        here = made(key, chosen.folder)
        rows = compare(known, here._replace(data={}))
        said, differ = sentence(rows), {r.run for r in rows if r.result == "differs"}
        wrong += sentence(compare(known, here)).startswith("reproduced")
        lines.append(f"| {row.what} | {2 * len(row.inits)} | {len(differ)} | {said} |")
    repeats = [made(key, chosen.folder) for key in REPEATED_ROWS]
    first = [sentence(compare(known, here)) for here in repeats]
    pairs = [sentence(compare(a._replace(growth=known.growth), b)) for a, b in combinations(repeats, 2)]
    alarms = [sum(not said.startswith("reproduced") for said in each) for each in (first, pairs)]
    of = f"{alarms[0]} of {len(first)} repeats against the reference, {alarms[1]} of {len(pairs)} pairs of repeats"
    doubts = sum("undecided" in said for said in [*first, *pairs])
    lines += ["", f"False alarms: {of}. A run is named as undecided in {doubts} of them all."]
    for said in [*first, *pairs]:
        if not said.startswith("reproduced"):
            print(said)
    write("the table of verdicts", "end of verdicts", lines)
    write("the power", "end of power", power(known, chosen.folder))
    return int(wrong > 0 or alarms[0] > 0)


if __name__ == "__main__":
    sys.exit(main())
