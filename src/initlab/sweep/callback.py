"""Hydra's callback: checks a run or a sweep before it starts, and gives a sweep's jobs a parent run.

Nothing heavy is imported at the top. `--help`, `--cfg` and completion need none of it, and torch, Lightning and MLflow
take seconds. Each method exits if something raises, where Hydra would warn, and run jobs that were not checked.
"""

import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from initlab import processes
from initlab.sweep import config as configs
from initlab.sweep import launchers, preflight
from initlab.sweep.errors import exit_on_error
from initlab.tracking.artifacts import RUN

if TYPE_CHECKING:
    from initlab.sweep.session import SweepSession

STARTED_IN = Path.cwd()  # where the command was typed: train.py imports this, and then changes to the project
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

    @exit_on_error()
    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Checks a single run, and finds the folder of a run to resume. Exits if something is wrong."""
        at_exit.enter_context(processes.exit_on_signals())
        preflight.import_libraries()
        HydraConfig.instance().set_config(config)
        preflight.prepare_run(config)

    @exit_on_error()
    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Checks a sweep, finds the folder of a sweep to resume, and opens its session. Exits if something is wrong."""
        at_exit.enter_context(processes.exit_on_signals())
        launcher = launchers.Launcher(config.hydra.runtime.choices["hydra/launcher"], config.hydra.launcher._target_)
        preflight.check_plugins(config, launcher)
        launcher.warm_up(config.hydra.launcher)
        preflight.import_libraries()
        HydraConfig.instance().set_config(config)
        resumed = preflight.prepare_sweep(config, launcher)
        at_exit.enter_context(processes.exit_on_signals())  # again: Ray sets handlers of its own
        from initlab.sweep.session import SweepSession

        self.session = SweepSession(
            configs.open_parent_run(config, resume=resumed),
            launcher,
            folder=Path(config.hydra.callbacks.sweep.folder) if resumed else self.folder,
            with_report=self.report,
            jobs=configs.count_jobs(config),
            extra=Path(config.hydra.sweep.dir, SEARCH_RESULTS),
            cwd=STARTED_IN,
        )
        at_exit.enter_context(self.session.running())
        configs.write_shared_keys(config)
        configs.start_search_at_config(config)

    @exit_on_error()
    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Logs how far the sweep is. A job in its own process is quiet: its sweep reports how it ended."""
        job = HydraConfig.get()
        if self.session is not None:
            resumed = Path(config.hydra.runtime.output_dir, RUN).is_file()
            self.session.start_job(job.job.num, resumed=resumed)
        elif job.mode == RunMode.MULTIRUN:
            launchers.prepare_job_process(job.launcher._target_)

    @exit_on_error()
    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        if self.session is not None:
            self.session.end_job()

    @exit_on_error()
    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        if self.session is not None:
            self.session.finished = True
