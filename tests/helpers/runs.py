"""Runs as `train.py` makes them, in this process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import ROOT
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from initlab.sweep.config import NOT_OF_A_RUN
from initlab.tracking.journal import Journal
from initlab.tracking.run_logger import RunLogger, start_run
from initlab.training import fit


def composed(normalized: Path, *words: str) -> dict[str, Any]:
    """The configuration of a run on these data, as it is recorded."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", [*words, f"data.folder={normalized}", "data.pin=null"])
    keys = [key for key in cfg if key not in NOT_OF_A_RUN]
    return OmegaConf.to_container(OmegaConf.masked_copy(cfg, keys), resolve=True)


def train(
    folder: Path, config: dict[str, Any], *, each: Callable[[RunLogger], None] = lambda run: None, **options: Any
) -> Journal:
    """Trains a run in a folder, or resumes the one that is there.

    each: called whenever metrics have been recorded.  options: of `start_run`.
    """
    place = {"uri": f"sqlite:///{folder.parent}/mlflow.db", "experiment": "any", "name": folder.name, "resume": True}
    with start_run(**place, **options, folder=folder, config=config) as run:
        log = run.log_metrics

        def log_metrics(values: Any) -> None:
            log(values)
            each(run)

        run.log_metrics = log_metrics
        fit.train(config, run)
    return run.journal
