"""Hydra's launcher `batched`. Hydra imports every plugin when it starts, so nothing heavy is imported at the top."""

from collections.abc import Sequence

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class BatchedLauncher(Launcher):
    """Runs a sweep's jobs in worker processes on this machine: see `initlab.sweep.batched`.

    workers: processes at once; one per core by default.  max_replicas: networks that are trained at once; by default as
    many as half of the free memory holds.
    """

    def __init__(self, workers: int | None = None, max_replicas: int | None = None) -> None:
        self.workers, self.max_replicas = workers, max_replicas
        self.config: DictConfig | None = None
        self.hydra_context: HydraContext | None = None
        self.task_function: TaskFunction | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config, self.hydra_context, self.task_function = config, hydra_context, task_function

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs the jobs with these overrides. Returns what each returned or raised, in the same order."""
        from initlab.sweep.batched import launch

        assert self.config is not None
        assert self.hydra_context is not None
        assert self.task_function is not None
        limits = {"workers": self.workers, "max_replicas": self.max_replicas}
        return launch(self.hydra_context, self.task_function, self.config, job_overrides, initial_job_idx, **limits)
