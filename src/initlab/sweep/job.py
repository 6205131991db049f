"""A run as Hydra has composed it, ready to be recorded and trained."""

from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from initlab.sweep import config as configs
from initlab.sweep import launchers
from initlab.sweep.errors import concise_errors


class Job(NamedTuple):
    """A single run, or a job of a sweep.

    config: the run's configuration, resolved.  record: the other arguments of `start_run`.  reuse: whether an earlier
    run that must have the same numbers takes its place.
    """

    config: dict[str, Any]
    record: dict[str, Any]
    reuse: bool

    def run(self) -> float:
        """Records and trains the run, unless another one takes its place. Returns its validation accuracy.

        Raises CompactHydraException for what can be said in one line.
        """
        from initlab.tracking import reuse
        from initlab.tracking.run_logger import start_run
        from initlab.training.fit import train

        with concise_errors():
            if self.reuse and (inputs := self._inputs_sha256()) is not None:
                found = reuse.find_run(inputs, **self.record)
                if found is not None:
                    return found
            with start_run(**self.record, config=self.config) as run:
                return train(self.config, run)

    def _inputs_sha256(self) -> str | None:
        """Returns the digest of what the numbers depend on; None if a value can't be used, which fails the run."""
        from initlab.training.fit import inputs_sha256

        try:
            return inputs_sha256(self.config)
        except Exception:  # the class that the configuration names may raise anything
            return None


def prepare(cfg: DictConfig) -> Job:
    """Returns the job that Hydra has composed. Raises CompactHydraException for a value that can't be used."""
    job = HydraConfig.get()
    with concise_errors():
        launchers.change_to(Path(job.runtime.cwd))
        record = {
            **configs.tracking_target(cfg),
            "folder": Path(job.runtime.output_dir),
            "name": configs.run_name(job),
            "overrides": configs.task_overrides(job),
            "sweep": configs.sweep_folder(job) if job.mode == RunMode.MULTIRUN else None,
            "resume": cfg.resume is not False,
            "allow": configs.allowed_differences(cfg),
            "register": configs.registered_model(cfg, job),
            "tags": configs.chosen_groups(job),
        }
        return Job(configs.run_config(cfg), record, configs.is_reuse(cfg))
