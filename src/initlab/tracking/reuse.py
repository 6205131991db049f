"""Finished runs that take the place of a job: configuration, code, data, packages and machine are those of the job.

The same five give the same numbers to the bit, so training again would tell nothing new.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from initlab.tracking import journal, params, provenance, store
from initlab.tracking.provenance import Provenance

log = logging.getLogger(__name__)

INPUTS = "inputs.sha256"  # tag of a run


def inputs_sha256(config: str, origin: Provenance) -> str:
    """Returns a digest of everything that a run's numbers are a function of.

    config: the run's configuration as YAML, as it is recorded.  origin: see `provenance.current`.
    """
    return params.sha256(json.dumps([config, provenance.validated(origin)], sort_keys=True))


def find_run(
    inputs: str,
    *,
    uri: str,
    experiment: str,
    folder: Path,
    name: str,
    overrides: Sequence[str],
    sweep: str | None,
    **_: Any,
) -> float | None:
    """Returns the validation accuracy of a finished run with these inputs, if there is one.

    The run becomes a job of the sweep too, by a tag. A job that was interrupted, in its own folder, is continued
    instead. The arguments are those of `start_run`.
    Raises store.TrackingError.
    """
    if journal.recorded_run_id(folder) is not None:
        return None
    client, experiment_id = store.connect(uri, experiment)
    with store.tracking_errors(store.location(uri)):
        query = f"tags.`{INPUTS}` = '{inputs}' and attributes.status = 'FINISHED'"
        found = [run for run in store.search_runs(client, experiment_id, query) if "replay.of" not in run.data.tags]
        if not found:
            return None
        run = found[0]
        if sweep is not None:
            parent_id = store.running_parent_id(client, experiment_id, sweep)
            client.set_tag(run.info.run_id, *store.membership(parent_id, folder, name, overrides))
    log.info(f"{name}: reused, from run {run.info.run_id}")
    return run.data.metrics["val/accuracy"]
