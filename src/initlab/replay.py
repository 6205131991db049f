"""python -m initlab.replay RUN_ID: runs a recorded run again, and says whether it came out the same, to the bit.

Exit code 0: it did. 1: it did not. 2: it could not be run again.
"""

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import yaml
from omegaconf import OmegaConf

from initlab import cli, experiment, init, mlp, mnist, origin, recorded, sweep, track
from initlab.recorded import Recorded

CLASSES = "SGD Adam AdamW NAdam RAdam Adagrad Adadelta Adamax RMSprop"


def _own(module: ModuleType) -> set[str]:
    """The public functions and classes that a module of ours defines."""
    return {
        f"{module.__name__}.{name}"
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__ and callable(value)
    }


# All that a recorded configuration may name. It comes from a store that others can write to: whatever it says, nothing
# else is imported or called.
TARGETS = {
    *_own(init),
    *_own(mlp),
    "initlab.lit.WholeCheckpoints",
    "initlab.progress.Progress",
    "pytorch_lightning.Trainer",
    "pytorch_lightning.callbacks.ModelCheckpoint",
    "pytorch_lightning.plugins.environments.LightningEnvironment",
    *(f"torch.optim.{name}" for name in CLASSES.split()),
}
# Of the trainer only what bears on numbers: some of its other options import what they name.
TRAINER = {
    *(
        "_target_",
        "accelerator",
        "devices",
        "strategy",
        "max_epochs",
        "min_epochs",
        "max_steps",
        "min_steps",
        "max_time",
    ),
    *("limit_train_batches", "limit_val_batches", "limit_test_batches", "check_val_every_n_epoch", "precision"),
    *("num_sanity_val_steps", "deterministic", "benchmark", "logger", "enable_progress_bar", "enable_model_summary"),
    *("enable_checkpointing", "callbacks", "plugins", "use_distributed_sampler"),
}
CHOICES: dict[str, list] = {
    "accelerator": ["auto", "cpu", "gpu", "cuda", "mps"],
    "strategy": ["auto", "ddp"],
    "logger": [False],
}
CHECKPOINT = {
    *("_target_", "filename", "monitor", "mode", "save_last", "save_top_k", "save_weights_only", "every_n_epochs"),
    *("save_on_train_epoch_end", "enable_version_counter", "verbose"),
}


class ReplayError(ValueError):
    """A recorded run that is not, or can't be, run again."""


class Row(NamedTuple):
    """What was compared: how many values of it, how many differ, since which step, the largest difference and where."""

    what: str
    values: int
    differ: int
    begins: str = ""
    largest: str = ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Replays one run, or all finished jobs of a sweep; returns the exit code, 0 if all came out the same."""
    parser = argparse.ArgumentParser(prog="python -m initlab.replay", description=__doc__)
    parser.add_argument("run", nargs="?", help="the id of a finished run")
    parser.add_argument("--all", metavar="PARENT", help="the id of a sweep, all of whose finished jobs are replayed")
    parser.add_argument(
        "--allow",
        choices=("code", "data"),
        action="append",
        default=[],
        help="go on though the code, or the data, is not what the run was made with",
    )
    cli.add_tracking_uri(parser)
    chosen = parser.parse_args(arguments)
    if (chosen.run is None) == (chosen.all is None):
        parser.error("give the id of a run, or --all and the id of a sweep")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout, force=True)
    place = {"uri": chosen.tracking_uri}
    now = datetime.now()
    folder = Path.cwd() / "outputs" / f"{now:%Y-%m-%d}" / f"{now:%H-%M-%S-%f}"
    if chosen.all is None:
        return 0 if replay(**place, run_id=chosen.run, folder=folder, allow=chosen.allow) else 1
    jobs = recorded.finished_jobs(**place, parent_id=chosen.all)
    originals = [recorded.read(**place, run_id=job) for job in jobs]
    for job in originals:
        checked(job, chosen.allow)  # before any is run
    parent = sweep.Sweep(
        **place,
        experiment=originals[0].experiment,
        folder=str(folder),
        name=f"replay of {chosen.all[:8]}",
        tags={"replay.of": chosen.all},
    )
    status = "FAILED"
    try:
        same = [
            replay(**place, run_id=job.run_id, folder=folder / str(number), allow=chosen.allow, parent=str(folder))
            for number, job in enumerate(originals)
        ]
        status = "FINISHED"
    finally:
        parent.finish(status)
    print(f"\n{sum(same)} of {len(same)} runs came out the same, to the bit; recorded as sweep {parent.run_id}")
    return 0 if all(same) else 1


def replay(uri: str, run_id: str, *, folder: Path, allow: Sequence[str] = (), parent: str | None = None) -> bool:
    """Runs a recorded run again, as a new one that is linked to it; prints what differs; returns whether nothing does.

    parent: the folder of the sweep it is to be nested in.  Raises ReplayError if the record is not to be trusted, or
    names other code or data than are at hand and `allow` does not say so; store.TrackingError.
    """
    first = recorded.read(uri, run_id)
    config, differing = checked(first, allow)
    alike = [part for part in origin.PARTS if part not in differing]
    print(f"\nreplaying run {run_id} ({first.name}); as recorded: {', '.join(alike) or 'nothing'}")
    for part, lines in differing.items():
        print("\n".join(f"  {part} differs: {line}" for line in lines))
    link = f"[{first.name}](#/experiments/{first.experiment_id}/runs/{run_id})"
    record = track.run(
        uri=uri,
        experiment=first.experiment,
        folder=folder,
        name=f"replay of {first.name}",
        config=config,
        sweep=parent,
        tags={key: first.tags[key] for key in ("init", "model") if key in first.tags}
        | {"replay.of": run_id, "mlflow.note.content": f"Replay of {link}."},
    )
    with record as run:
        experiment.train(config, run)
    second = recorded.read(uri, run.run_id)
    rows = compare(first, second)
    same = not any(row.differ for row in rows)
    recorded.tag(uri, run.run_id, **{"replay.verdict": "identical" if same else "differs"})
    if same:
        points = sum(len(history) for history in first.histories.values())
        print(f"identical, to the bit: weights, {len(first.histories)} metrics ({points:,} points), replica table")
    else:
        print(f"\n{pd.DataFrame(rows).rename(columns=HEADERS).to_string(index=False)}\n")
        print(f"differs from run {run_id}: {', '.join(row.what for row in rows if row.differ)}")
    return same


def checked(run: Recorded, allow: Sequence[str]) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """The configuration of a recorded run, and {part: what of its origin is another here, a line each}.

    Raises ReplayError if the code or the data is another, and `allow` does not name it.
    """
    if run.status != "FINISHED":
        raise ReplayError(f"run {run.run_id} ended {run.status}; only a finished run is a promise")
    if track.sha256(run.config) != run.tags.get("config.sha256"):
        raise ReplayError(f"run {run.run_id}: config.yaml is not the one that was recorded, by its SHA-256")
    config = read(run.config)
    try:
        trainer, _, images = experiment.build(OmegaConf.create(config), Path("outputs"))
    except Exception as error:  # of Hydra, OmegaConf, Lightning, ours
        raise ReplayError(f"run {run.run_id} can't be run here: {' '.join(str(error).split())}") from error
    here = origin.here(mnist.read_facts(images.folder), trainer.strategy.root_device)
    differing = origin.differences(run.origin, here | {"code": origin.code(run.origin["code"])})
    refused = [part for part in ("code", "data") if part in differing and part not in allow]
    if refused:
        lines = "".join(f"\n  {part}: {line}" for part in refused for line in differing[part])
        commit = run.tags.get("git.commit", "unknown")[:12]
        changed = " and changes to it" if run.tags.get("git.dirty") == "True" else ""
        raise ReplayError(
            f"run {run.run_id} was made with other {' and '.join(refused)} (commit {commit}{changed}):{lines}\n"
            f"to replay it with what is here: {' '.join(f'--allow {part}' for part in refused)}"
        )
    return config, differing


def read(text: str) -> dict[str, Any]:
    """A recorded configuration, as data. Raises ReplayError, naming it, at what would do more than make our objects."""
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise ReplayError("config.yaml: aliases are not read")
        config = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ReplayError(f"config.yaml can't be read: {str(error).splitlines()[0]}") from error
    if not isinstance(config, dict):
        raise ReplayError("config.yaml holds no configuration")
    _refuse(config, "")
    trainer = config.get("trainer", {})
    if not isinstance(trainer, dict):
        raise ReplayError("trainer holds no configuration")
    parts = [(trainer, TRAINER), *((part, CHECKPOINT) for part in _parts(trainer, "callbacks"))]
    for part, known in [*parts, *((part, {"_target_"}) for part in _parts(trainer, "plugins"))]:
        for key in part:
            if key not in known:
                raise ReplayError(f"trainer: {key} is nothing that a replay takes from a record")
    for key in CHOICES.keys() & trainer.keys():
        if trainer[key] not in CHOICES[key]:
            raise ReplayError(f"trainer: {key} is {trainer[key]!r}, which a replay does not take from a record")
    return config


def _parts(trainer: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    parts = trainer.get(key) or []
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise ReplayError(f"trainer.{key} is {parts!r}; expected a list of configurations")
    return parts


def _refuse(node: object, path: str) -> None:
    """Walks through all of a configuration. Raises ReplayError at what may not be in it."""
    if isinstance(node, dict):
        for key, value in node.items():
            where = f"{path}{key}"
            if not isinstance(key, str) or "${" in key:
                raise ReplayError(f"{where}: keys are words")
            if key == "_target_" and (not isinstance(value, str) or value not in TARGETS):
                raise ReplayError(f"{where} is {value!r}, which no replay may import or call")
            if key.startswith("_") and key not in ("_target_", "_partial_"):
                raise ReplayError(f"{where} is nothing that a replay takes from a record")
            if key == "filename" and (not isinstance(value, str) or not value.isidentifier()):
                raise ReplayError(f"{where} is {value!r}; a replay writes to its own folder")
            _refuse(value, f"{where}.")
    elif isinstance(node, list):
        for number, value in enumerate(node):
            _refuse(value, f"{path}{number}.")
    elif isinstance(node, str) and "${" in node:
        raise ReplayError(f"{path[:-1]} is {node!r}; a recorded configuration is resolved")


HEADERS = {"differ": "that differ", "begins": "begins at", "largest": "largest difference"}
SHOWN = 16  # metrics that differ, results before statistics of layers


def compare(first: Recorded, second: Recorded) -> list[Row]:
    """The weights, every history, every replica's values; metrics that agree are one row together."""
    weights = [run.tags.get("weights.sha256") for run in (first, second)]
    rows = [Row("weights (SHA-256)", 1, int(weights[0] is None or weights[0] != weights[1]))]
    names = sorted(first.histories.keys() | second.histories.keys())
    metrics = {name: _history(name, first.histories.get(name, []), second.histories.get(name, [])) for name in names}
    differing = sorted((row for row in metrics.values() if row.differ), key=lambda row: row.what.startswith("layer"))
    agreeing = [row for row in metrics.values() if not row.differ]
    rows.append(Row(f"{len(agreeing)} metrics", sum(row.values for row in agreeing), 0))
    rows += differing[:SHOWN]
    if len(differing) > SHOWN:
        rest = differing[SHOWN:]
        rows.append(Row(f"{len(rest)} more", sum(row.values for row in rest), sum(row.differ for row in rest)))
    return [*rows, _table(first.replicas, second.replicas)]


def _history(name: str, first: Sequence[tuple[int, float]], second: Sequence[tuple[int, float]]) -> Row:
    """Two histories, [(step, value)] in the order of steps, as sets of points: none may be lost, none doubled."""
    if len(first) == len(second) and all(a == b and _same(x, y) for (a, x), (b, y) in zip(first, second, strict=True)):
        return Row(name, len(first), 0)
    here, there = dict(first), dict(second)
    steps = sorted(step for step in here.keys() | there.keys() if not _same(here.get(step), there.get(step)))
    if not steps:  # the same points, but some of them twice
        times = [Counter(step for step, _ in history) for history in (first, second)]
        twice = sorted(step for step in here if times[0][step] != times[1][step])
        return Row(name, len(first), len(twice), f"step {twice[0]}", "a point is there twice")
    largest = _largest({step: (here.get(step), there.get(step)) for step in steps})
    return Row(name, len(first), len(steps), f"step {steps[0]}", largest)


def _largest(pairs: Mapping[int, tuple[float | None, float | None]]) -> str:
    """Where two series of numbers are furthest apart."""
    gaps = {step: abs(a - b) for step, (a, b) in pairs.items() if a is not None and b is not None}
    known = {step: gap for step, gap in gaps.items() if not np.isnan(gap)}
    if not known:
        return "missing, or nan"
    step = max(known, key=lambda key: known[key])
    return f"{known[step]:.3g} at step {step}"


def _same(a: float | None, b: float | None) -> bool:
    return a == b or (a is not None and b is not None and np.isnan(a) and np.isnan(b))


def _table(first: str, second: str) -> Row:
    """The tables of replicas, by their text; and if that differs, value by value."""
    one, two = (pd.read_csv(StringIO(text), dtype=str).astype(float) for text in (first, second))  # to the last bit
    if first == second:
        return Row("replicas.csv", int(one.size), 0)
    if list(one.columns) != list(two.columns) or len(one) != len(two):
        return Row("replicas.csv", int(one.size), int(one.size), "its shape", f"{one.shape}, here {two.shape}")
    a, b = one.to_numpy(), two.to_numpy()
    differing = ~((a == b) | (np.isnan(a) & np.isnan(b)))
    if not differing.any():  # the same numbers, written otherwise
        return Row("replicas.csv", int(one.size), 0)
    row, column = np.argwhere(differing)[0]
    gap = np.nanmax(np.abs(a - b)[differing], initial=0.0)
    where = f"step {one['step'][row]:.0f}, replica {one['replica'][row]:.0f}, {one.columns[column]}"
    return Row("replicas.csv", int(one.size), int(differing.sum()), where, f"{gap:.3g}")


if __name__ == "__main__":
    with cli.one_line(2):
        raise SystemExit(main())
