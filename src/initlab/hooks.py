"""Around a run: bad input refused before anything is written, an earlier run found again, a sweep's parent run.

Nothing heavy is imported at the top: `--help`, `--cfg` and completion need none of it, and torch,
Lightning and MLflow take seconds.
"""

import logging
import os
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.errors import CompactHydraException, InstantiationException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from initlab import composed, launchers, process

if TYPE_CHECKING:
    from initlab import sweep

log = logging.getLogger(__name__)

FOUND = "optimization_results.yaml"  # what Hydra's Optuna sweeper leaves
# Of conf/hydra/launcher/*.yaml, which are whole without the schemas of the same name that the plugins bring.
warnings.filterwarnings("ignore", r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema", UserWarning)

at_exit = ExitStack()  # train.py closes it when Hydra returns or exits: Hydra calls no hook when a job has failed


class Record(Callback):
    """Hydra's hooks: bad input is refused before a folder is made; a sweep is a parent run of its jobs.

    folder: where a sweep's results go.  report: whether a report on them is written beside them, and kept with the run.
    shared: keys that all jobs of the sweep have in common, as it notes for them itself.
    """

    def __init__(self, folder: str, report: bool = True, shared: Sequence[str] = ()) -> None:
        self.folder, self.report = Path(folder), report
        self.status = "FAILED"
        self.launcher = launchers.Launcher("basic", "hydra._internal.core_plugins.basic_launcher.BasicLauncher")
        self.jobs, self.process = 0, ""  # of the sweep: how many, and where
        self.times: list[float] = []  # seconds that whole jobs took
        self.started: float | None = None

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        at_exit.enter_context(process.exit_on_signals())
        with or_exit():
            with process.leave_at_once_on_signals():
                from initlab import experiment, journal, track  # noqa: F401 (experiment: what takes long to import)
            HydraConfig.instance().set_config(config)
            if composed.resumes(config):
                what, named = composed.plain(config), composed.run_id(config)
                go_on_in(track.resumable(**composed.place(config), config=what, run_id=named), config, "run")
            else:
                journal.refuse_used(Path(config.hydra.run.dir))
            refuse_bad_values(config, Path(config.hydra.run.dir))
            refuse_bad_place(config, Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        at_exit.enter_context(process.exit_on_signals())
        self.launcher = launchers.Launcher(
            config.hydra.runtime.choices["hydra/launcher"], config.hydra.launcher._target_
        )
        with or_exit():
            self.launcher.refuse_missing()
            sweeper = config.hydra.runtime.choices["hydra/sweeper"]
            launchers.refuse_missing(f"hydra/sweeper={sweeper}", config.hydra.sweeper._target_)
            with process.leave_at_once_on_signals():
                from initlab import experiment, journal, sweep, watch  # noqa: F401 (experiment takes long to import)
            HydraConfig.instance().set_config(config)
            what = composed.overrides(config.hydra)
            found = None
            if composed.resumes(config):
                found = sweep.resumable(**composed.place(config), overrides=what, run_id=composed.run_id(config))
                go_on_in(found, config, "sweep")
                self.folder = Path(config.hydra.callbacks.record.folder)
            if found is None:
                journal.refuse_used(Path(config.hydra.sweep.dir))
            refuse_bad_sweep(config, Path(config.hydra.sweep.dir))
            if self.launcher.elsewhere:
                whole = composed.sweep_folder(config.hydra)  # whatever a job's working directory is
                composed.put_in(whole, config, "sweep")
                self.launcher.begin(OmegaConf.to_container(config.hydra.launcher, resolve=True))
                at_exit.enter_context(process.exit_on_signals())  # again: Ray sets handlers of its own
            refuse_bad_place(config, Path(config.hydra.sweep.dir))
            parent = sweep.Sweep(
                **composed.place(config),
                folder=composed.sweep_folder(config.hydra),
                name=" ".join(what) or "sweep",
                overrides=what,
                resume=found is not None,
            )
            self.found = Path(config.hydra.sweep.dir, FOUND)
            at_exit.callback(self.end, parent)
            composed.name_by_what_varies(config)
            composed.start_at_config(config)
            self.jobs, self.process = composed.count_jobs(config), process.owner()
            if self.launcher.elsewhere:
                at_exit.enter_context(watch.watching(parent, self.jobs))

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Says how far the sweep is. A job in a process of its own says nothing: its sweep does, when it has ended."""
        if self.process and self.process != process.owner():
            launchers.leave_terminal()
            if self.launcher.kind == "JoblibLauncher":
                process.leave_with_parent(launchers.GRACE)
        elif self.jobs:
            from initlab import watch

            number, whole = HydraConfig.get().job.num, self.times[1:] or self.times  # the first does what all need
            left = f", about {watch.duration(mean(whole) * (self.jobs - number))} to go" if whole else ""
            log.info(f"job {number + 1} of {self.jobs}{left}")
            # Of a job that was begun before, what is left of it says nothing of the others.
            self.started = None if composed.run_is_in(config) else time.monotonic()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        if self.started is not None:
            self.times.append(time.monotonic() - self.started)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        self.status = "FINISHED"

    def end(self, parent: "sweep.Sweep") -> None:
        """Gathers the results of all finished jobs, reports on them with the parent run, and ends it."""
        from initlab import report, results, store

        if self.launcher.elsewhere and self.status != "FINISHED":
            self.launcher.end()
        lost, reason = None, "a job failed"
        try:
            found = parent.results()
            if found is not None:
                results.save(found, self.folder)
                seconds = parent.seconds()
                log.info(f"\n{report.table(found, seconds)}")
                if self.report:
                    names = report.write(found, self.folder / "report")
                    log.info(f"report: {Path(self.folder, 'report', 'index.html').absolute()}")
                    parent.keep(self.folder / "report", names)
                parent.describe(*report.summary(found, seconds), results.digest(self.folder), report.best(found))
                if self.found.exists():
                    parent.keep(self.found.parent, [self.found.name])
            log.info(f"recorded as sweep {parent.run_id}\n{parent.look()}")
        except store.TrackingError as error:
            self.status, reason, lost = "FAILED", str(error), error
        except BaseException as error:
            self.status, reason = "FAILED", f"{type(error).__name__}: {error}"
            raise
        finally:
            try:
                parent.finish(self.status, reason)
            except store.TrackingError as error:
                lost = error
        if lost is not None:
            sys.exit(f"error: {lost}; once it is back, this ends the sweep: the same command, with resume=true")


def refuse_bad_values(config: DictConfig, folder: Path) -> None:
    """Raises if a value or the data can't be used."""
    from initlab import experiment

    experiment.build(OmegaConf.create(composed.plain(config)), folder)


def refuse_bad_sweep(config: DictConfig, folder: Path) -> None:
    """Raises if a sweep would be recorded in more than one place, or one of its values can't be used."""
    swept = composed.split_overrides(config)[0]
    for item in swept:
        if item.key_or_group.startswith(("tracking", "resume")):
            raise ValueError(f"{item.input_line}: a sweep is one record, and {item.key_or_group} one value")
    if composed.is_search(config):
        from initlab import search

        search.check(config.hydra.sweeper, [item.key_or_group for item in swept])
    for job in composed.one_by_one(config):
        refuse_bad_values(job, folder)


def refuse_bad_place(config: DictConfig, folder: Path) -> None:
    """Raises if the folder or the store can't be used; leaves the folder made, and nothing else."""
    from initlab import store

    composed.registered_model(config, config.hydra)
    with made(folder):
        store.refuse_lost_artifacts(*store.connect(**composed.place(config)))


def go_on_in(folder: Path | None, config: DictConfig, key: str) -> None:
    """Makes Hydra use the folder of an earlier run or sweep."""
    if folder is None:
        log.info(f"no interrupted {key} of this configuration is here: starting a new one")
        return
    log.info(f"resuming the {key} in {folder}")
    composed.put_in(folder, config, key)


@contextmanager
def or_exit() -> Iterator[None]:
    """Ends the program if the body fails, with one line if it refuses something: Hydra would only warn, and go on."""
    try:
        with one_line():
            yield
    except CompactHydraException as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            traceback.print_exc()
        sys.exit(f"error: {error}")
    except Exception:
        traceback.print_exc()
        sys.exit(1)


@contextmanager
def made(folder: Path) -> Iterator[None]:
    """Makes the folder that Hydra is about to make, writable; takes away what it made if the body fails."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
        yield
    except BaseException as error:
        for path in new:
            if path.exists():
                path.rmdir()
        if isinstance(error, OSError) and error.filename is not None:
            raise OSError(f"{folder} can't be written: {error.strerror}") from error
        raise


@contextmanager
def one_line() -> Iterator[None]:
    """Turns a refusal, whichever library it comes from, into the kind that Hydra prints without a stack trace."""
    try:
        yield
    except (ValueError, TypeError, OSError, OmegaConfBaseException, InstantiationException) as error:
        text = str(error).partition("\n\nConfig search path:")[0]
        message, _, rest = text.partition("full_key: ")  # Hydra and OmegaConf name the key on a line of its own
        key = rest.partition("\n")[0]
        if isinstance(error, InstantiationException):
            message = str(error.__cause__ or "") or message
        line = " ".join(message.split())
        raise CompactHydraException(f"{key}: {line}" if key else line) from error
