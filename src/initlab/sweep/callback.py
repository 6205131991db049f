"""Hydra's callback: checks a run or a sweep before it starts, and gives a sweep's jobs a parent run.

Nothing heavy is imported at the top. `--help`, `--cfg` and completion need none of it, and torch, Lightning and MLflow
take seconds.
"""

import logging
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from initlab import processes
from initlab.sweep import config as configs
from initlab.sweep import launchers
from initlab.sweep.errors import exit_on_error

if TYPE_CHECKING:
    from initlab.sweep.session import SweepSession

log = logging.getLogger(__name__)

SEARCH_RESULTS = "optimization_results.yaml"  # written by Hydra's Optuna sweeper
# conf/hydra/launcher/*.yaml need none of the schemas of the same names that the plugins register.
warnings.filterwarnings("ignore", r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema", UserWarning)

at_exit = ExitStack()  # closed by train.py when Hydra returns or exits: Hydra calls no callback if a job fails


class SweepCallback(Callback):
    """Checks a run or a sweep before Hydra creates a folder, and opens a sweep's session.

    folder: where a sweep's results go.  report: whether a report is written beside them and logged.
    session: of the sweep, in the process that started it; None for a single run, and in a job's own process.
    """

    def __init__(self, folder: str, report: bool = True) -> None:
        self.folder, self.report = Path(folder), report
        self.session: SweepSession | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"session": None}  # launchers pickle the callback for each job

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Checks a single run, and finds the folder of a run to resume. Exits if something is wrong."""
        at_exit.enter_context(processes.exit_on_signals())
        with exit_on_error():
            with processes.leave_at_once_on_signals():  # while libraries are imported
                from initlab.sweep import preflight
                from initlab.tracking import journal, resume
                from initlab.training import build  # noqa: F401
            HydraConfig.instance().set_config(config)
            if configs.is_resume(config):
                target, run_id = configs.tracking_target(config), configs.resume_run_id(config)
                found = resume.find_resumable_run(**target, config=configs.run_config(config), run_id=run_id)
                _resume_in(found, config, "run")
            else:
                journal.check_unused(Path(config.hydra.run.dir))
            preflight.check_run(config, Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Checks a sweep, finds the folder of a sweep to resume, and opens its session. Exits if something is wrong."""
        at_exit.enter_context(processes.exit_on_signals())
        choices, hydra = config.hydra.runtime.choices, config.hydra
        launcher = launchers.Launcher(choices["hydra/launcher"], hydra.launcher._target_)
        with exit_on_error():
            launcher.check_installed()
            launchers.check_plugin(f"hydra/sweeper={choices['hydra/sweeper']}", hydra.sweeper._target_)
            with processes.leave_at_once_on_signals():  # while libraries are imported
                from initlab.sweep import preflight
                from initlab.sweep.session import SweepSession
                from initlab.tracking import journal, parent_run, resume
                from initlab.training import build  # noqa: F401
            HydraConfig.instance().set_config(config)
            overrides, target = configs.task_overrides(hydra), configs.tracking_target(config)
            found = None
            if configs.is_resume(config):
                run_id = configs.resume_run_id(config)
                found = resume.find_resumable_sweep(**target, overrides=overrides, run_id=run_id)
                _resume_in(found, config, "sweep")
            if found is None:
                journal.check_unused(Path(hydra.sweep.dir))
            preflight.check_sweep(config, Path(hydra.sweep.dir))
            if launcher.remote:
                # absolute, whatever a job's working directory is
                configs.set_output_dir(configs.sweep_folder(hydra), config, "sweep")
                launcher.start(OmegaConf.to_container(hydra.launcher, resolve=True))
                at_exit.enter_context(processes.exit_on_signals())  # again: Ray sets handlers of its own
            preflight.check_target(config, Path(hydra.sweep.dir))
            parent = parent_run.ParentRun(
                **target,
                folder=configs.sweep_folder(hydra),
                name=" ".join(overrides) or "sweep",
                overrides=overrides,
                resume=found is not None,
            )
            self.session = SweepSession(
                parent,
                launcher,
                folder=self.folder if found is None else Path(hydra.callbacks.sweep.folder),
                with_report=self.report,
                jobs=configs.count_jobs(config),
                extra=Path(hydra.sweep.dir, SEARCH_RESULTS),
            )
            at_exit.enter_context(self.session.running())
            configs.write_shared_keys(config)
            configs.start_search_at_config(config)

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Logs how far the sweep is. A job in its own process is quiet: its sweep reports how it ended."""
        job = HydraConfig.get()
        if self.session is not None:
            from initlab.tracking import journal

            resumed = journal.recorded_run_id(Path(config.hydra.runtime.output_dir)) is not None
            self.session.start_job(job.job.num, resumed=resumed)
        elif job.mode == RunMode.MULTIRUN:
            launchers.prepare_job_process(job.launcher._target_)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        if self.session is not None:
            self.session.end_job()

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        if self.session is not None:
            self.session.finished = True


def _resume_in(folder: Path | None, config: DictConfig, kind: str) -> None:
    """Makes Hydra use the folder of an earlier run or sweep."""
    if folder is None:
        log.info(f"no interrupted {kind} of this configuration is here: starting a new one")
        return
    log.info(f"resuming the {kind} in {folder}")
    configs.set_output_dir(folder, config, kind)
