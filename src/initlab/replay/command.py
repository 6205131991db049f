"""Runs recorded runs again, and reports whether the results are the same to the bit."""

import logging
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf

from initlab.data import normalized_files
from initlab.replay.compare import HEADERS, compare
from initlab.replay.safe_config import ReplayError, read_config
from initlab.tracking import provenance
from initlab.tracking.params import sha256
from initlab.tracking.parent_run import ParentRun
from initlab.tracking.recorded_run import RecordedRun, finished_jobs, read_run, set_tags
from initlab.tracking.run_logger import start_run
from initlab.training.build import build
from initlab.training.fit import train


def replay_all(uri: str, run_id: str | None, parent_id: str | None, *, allow: Sequence[str] = ()) -> bool:
    """Replays the run `run_id`, or all finished jobs of the sweep `parent_id`. Returns whether all come out the same.

    Raises ReplayError and store.TrackingError, as `replay` does. All jobs of a sweep are checked before the first is
    run.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout, force=True)
    now = datetime.now()
    folder = Path.cwd() / "outputs" / f"{now:%Y-%m-%d}" / f"{now:%H-%M-%S-%f}"
    if parent_id is None:
        assert run_id is not None
        return replay(uri, run_id, folder=folder, allow=allow)
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
        same = [
            replay(uri, job.run_id, folder=folder / str(number), allow=allow, parent=str(folder))
            for number, job in enumerate(originals)
        ]
        status = "FINISHED"
        found = parent.collect_results()
        assert found is not None
        parent.log_summary(found, finished=True)
    finally:
        parent.end(status)
    print(f"\n{sum(same)} of {len(same)} runs came out the same, to the bit; recorded as sweep {parent.run_id}")
    return all(same)


def replay(uri: str, run_id: str, *, folder: Path, allow: Sequence[str] = (), parent: str | None = None) -> bool:
    """Runs a recorded run again, as a new run linked to it. Prints what differs; returns whether nothing does.

    parent: the folder of the sweep that the new run is nested in.  allow: parts that may differ, `code` or `data`.
    Raises ReplayError if the record can't be trusted, or if code or data differ and are not allowed to;
    store.TrackingError.
    """
    first = read_run(uri, run_id)
    config, differing = checked(first, allow)
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
    same = not any(row.differ for row in rows)
    set_tags(uri, run.run_id, **{"replay.verdict": "identical" if same else "differs"})
    if same:
        points = sum(len(history) for history in first.histories.values())
        print(f"identical, to the bit: weights, {len(first.histories)} metrics ({points:,} points), replica table")
    else:
        print(f"\n{pd.DataFrame(rows).rename(columns=HEADERS).to_string(index=False)}\n")
        print(f"differs from run {run_id}: {', '.join(row.what for row in rows if row.differ)}")
    return same


def checked(run: RecordedRun, allow: Sequence[str]) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Returns the configuration of a recorded run, and {part: how its provenance differs here, one line each}.

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
    return config, differing
