"""Runs recorded runs again, and says whether they come out the same: to the bit, or within rounding and chance."""

import logging
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from omegaconf import OmegaConf

from initlab.data import normalized_files
from initlab.replay.compare import HEADERS, compare
from initlab.replay.safe_config import ReplayError, read_config
from initlab.reproduction import reference, verdict
from initlab.tracking import provenance
from initlab.tracking.params import sha256
from initlab.tracking.parent_run import ParentRun
from initlab.tracking.recorded_run import RecordedRun, finished_jobs, read_run, set_tags
from initlab.tracking.run_logger import start_run
from initlab.training.build import build
from initlab.training.fit import train

IDENTICAL, REPRODUCED, DIFFERS = "identical", "reproduced", "differs"  # the tag replay.verdict


class Checked(NamedTuple):
    """A recorded run that can be run here.

    differing: {part of its provenance: how it differs here, one line each}.  shape: inputs, outputs and probe.
    """

    config: dict[str, Any]
    differing: dict[str, list[str]]
    shape: dict[str, int]


def replay_all(uri: str, run_id: str | None, parent_id: str | None, *, allow: Sequence[str] = ()) -> bool:
    """Replays the run `run_id`, or all finished jobs of the sweep `parent_id`. Returns whether none differs.

    Raises ReplayError and store.TrackingError, as `replay` does. All jobs of a sweep are checked before the first is
    run.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout, force=True)
    now = datetime.now()
    folder = Path.cwd() / "outputs" / f"{now:%Y-%m-%d}" / f"{now:%H-%M-%S-%f}"
    if parent_id is None:
        assert run_id is not None
        return replay(uri, run_id, folder=folder, allow=allow) != DIFFERS
    jobs = finished_jobs(uri, parent_id)
    originals = [read_run(uri, job) for job in jobs]
    for job in originals:
        checked(job, allow)  # before the first is run
    parent = ParentRun(
        uri=uri,
        experiment=originals[0].experiment,
        folder=str(folder),
        name=f"replay of {parent_id[:8]}",
        tags={"replay.of": parent_id},
    )
    status = "FAILED"
    try:
        found_out = [
            replay(uri, job.run_id, folder=folder / str(number), allow=allow, parent=str(folder))
            for number, job in enumerate(originals)
        ]
        status = "FINISHED"
        found = parent.collect_results()
        assert found is not None
        parent.log_summary(found, finished=True)
    finally:
        parent.end(status)
    said = f"{found_out.count(IDENTICAL)} of {len(found_out)} runs came out the same, to the bit"
    if REPRODUCED in found_out:
        said += f", and {found_out.count(REPRODUCED)} within rounding and chance"
    print(f"\n{said}; recorded as sweep {parent.run_id}")
    return DIFFERS not in found_out


def replay(uri: str, run_id: str, *, folder: Path, allow: Sequence[str] = (), parent: str | None = None) -> str:
    """Runs a recorded run again, as a new run linked to it, and prints what differs.

    Returns `identical` for the same bits; `reproduced` for the same within rounding and chance, if machine or packages
    are others than recorded; else `differs`.
    parent: the folder of the sweep that the new run is nested in.  allow: parts that may differ, `code` or `data`.
    Raises ReplayError if the record can't be trusted, or if code or data differ and are not allowed to;
    store.TrackingError.
    """
    first = read_run(uri, run_id)
    config, differing, shape = checked(first, allow)
    alike = [part for part in provenance.PARTS if part not in differing]
    print(f"\nreplaying run {run_id} ({first.name}); as recorded: {', '.join(alike) or 'nothing'}")
    for part, lines in differing.items():
        print("\n".join(f"  {part} differs: {line}" for line in lines))
    link = f"[{first.name}](#/experiments/{first.experiment_id}/runs/{run_id})"
    record = start_run(
        uri=uri,
        experiment=first.experiment,
        folder=folder,
        name=f"replay of {first.name}",
        config=config,
        sweep=parent,
        tags={key: first.tags[key] for key in ("init", "activation", "model") if key in first.tags}
        | {"replay.of": run_id, "mlflow.note.content": f"Replay of {link}."},
    )
    with record as run:
        train(config, run)
    second = read_run(uri, run.run_id)
    rows = compare(first, second)
    if not any(row.differ for row in rows):
        set_tags(uri, run.run_id, **{"replay.verdict": IDENTICAL})
        points = sum(len(history) for history in first.histories.values())
        print(f"identical, to the bit: weights, {len(first.histories)} metrics ({points:,} points), replica table")
        return IDENTICAL
    said = compared(first, second, config, shape)
    may_differ = bool({"machine", "packages"} & differing.keys())
    found = REPRODUCED if may_differ and said.startswith("reproduced") else DIFFERS
    set_tags(uri, run.run_id, **{"replay.verdict": found})
    print(f"\n{pd.DataFrame(rows).rename(columns=HEADERS).to_string(index=False)}\n")
    print(f"differs from run {run_id}: {', '.join(row.what for row in rows if row.differ)}")
    print(said if may_differ else f"{said}; but on the same machine and packages, bits should agree")
    return found


def compared(first: RecordedRun, second: RecordedRun, config: Mapping[str, Any], shape: Mapping[str, int]) -> str:
    """Returns the verdict on two runs of a configuration: see `initlab.reproduction.verdict`.

    How fast rounding grows is known if the project's reference has a run of this configuration.
    """
    sides = []
    try:
        known = reference.read(Path("reference"))
        match = verdict.find_run(known.runs, "", config)
        growth = {first.name: known.growth.get(match or "", {})}
    except reference.UnreadableReferenceError:
        growth = {}
    for run in (first, second):
        table = pd.read_csv(StringIO(run.replicas)).assign(run=first.name)
        data = {config["data"]["folder"]: run.provenance["data"]}
        sides.append(verdict.Numbers(table, {first.name: {"config": config, **shape}}, data, growth))
    return verdict.sentence(verdict.compare(*sides))


def checked(run: RecordedRun, allow: Sequence[str]) -> Checked:
    """Returns what a recorded run is run from here.

    Raises ReplayError if the run did not finish or can't be run here, if its configuration was changed, or if code or
    data differ and `allow` does not name them.
    """
    if run.status != "FINISHED":
        raise ReplayError(f"run {run.run_id} ended {run.status}; only a finished run is a promise")
    if sha256(run.config) != run.tags.get("config.sha256"):
        raise ReplayError(f"run {run.run_id}: config.yaml is not the one that was recorded, by its SHA-256")
    config = read_config(run.config)
    try:
        parts = build(OmegaConf.create(config), Path("outputs"))
    except Exception as error:  # raised by Hydra, OmegaConf, Lightning or initlab
        raise ReplayError(f"run {run.run_id} can't be run here: {' '.join(str(error).split())}") from error
    trainer = parts.trainer
    facts = normalized_files.read_facts(parts.data.folder)
    here = provenance.current(facts, trainer.strategy.root_device, trainer.world_size)
    differing = provenance.differences(run.provenance, here | {"code": provenance.code(run.provenance["code"])})
    refused = [part for part in ("code", "data") if part in differing and part not in allow]
    if refused:
        lines = "".join(f"\n  {part}: {line}" for part in refused for line in differing[part])
        commit = run.tags.get("git.commit", "unknown")[:12]
        changed = " and changes to it" if run.tags.get("git.dirty") == "True" else ""
        raise ReplayError(
            f"run {run.run_id} was made with other {' and '.join(refused)} (commit {commit}{changed}):{lines}\n"
            f"to replay it with what is here: {' '.join(f'--allow {part}' for part in refused)}"
        )
    probe = min(config["stats"]["probe"], facts["splits"]["validation"]["images"])
    inputs, *_, outputs = parts.network.widths(facts["inputs"])
    return Checked(config, differing, {"inputs": inputs, "outputs": outputs, "probe": probe})
