"""Around a run: bad input refused before anything is written, an earlier run found again, a sweep's parent run.

Nothing heavy is imported at the top: `--help`, `--cfg` and completion need none of it, and torch,
Lightning and MLflow take seconds.
"""

import logging
import os
import re
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from math import prod
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn
from hydra.errors import CompactHydraException, InstantiationException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from initlab import launchers, process

if TYPE_CHECKING:
    from initlab import sweep

log = logging.getLogger(__name__)

FOUND = "optimization_results.yaml"  # what Hydra's Optuna sweeper leaves
# Of conf/hydra/launcher/*.yaml, which are whole without the schemas of the same name that the plugins bring.
warnings.filterwarnings("ignore", r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema", UserWarning)

TRIED = 20  # values of a swept key, before a sweep starts: some hundredths of a second each
at_exit = ExitStack()  # train.py closes it when Hydra returns or exits: Hydra calls no hook when a job has failed


class Record(Callback):
    """Hydra's hooks: bad input is refused before a folder is made; a sweep is a parent run of its jobs.

    folder: where a sweep's results go.  report: whether a report on them is written beside them, and kept with the run.
    shared: keys that all jobs of the sweep have in common, as it notes for them itself.
    """

    def __init__(self, folder: str, report: bool = True, shared: Sequence[str] = ()) -> None:
        self.folder, self.report = Path(folder), report
        self.status = "FAILED"
        self.jobs, self.process = 0, ""  # of the sweep: how many, and where
        self.times: list[float] = []  # seconds that whole jobs took
        self.started: float | None = None

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        at_exit.enter_context(process.exit_on_signals())
        with or_exit():
            with process.leave_at_once_on_signals():
                from initlab import experiment, journal, track  # noqa: F401 (experiment: what takes long to import)
            HydraConfig.instance().set_config(config)
            if resumes(config):
                go_on_in(track.resumable(**place(config), config=plain(config), run_id=run_id(config)), config, "run")
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
            what = overrides(config.hydra)
            found = None
            if resumes(config):
                found = sweep.resumable(**place(config), overrides=what, run_id=run_id(config))
                go_on_in(found, config, "sweep")
                self.folder = Path(config.hydra.callbacks.record.folder)
            if found is None:
                journal.refuse_used(Path(config.hydra.sweep.dir))
            refuse_bad_sweep(config, Path(config.hydra.sweep.dir))
            if self.launcher.elsewhere:
                put_in(sweep_folder(config.hydra), config, "sweep")  # whatever a job's working directory is
                self.launcher.begin(OmegaConf.to_container(config.hydra.launcher, resolve=True))
                at_exit.enter_context(process.exit_on_signals())  # again: Ray sets handlers of its own
            refuse_bad_place(config, Path(config.hydra.sweep.dir))
            parent = sweep.Sweep(
                **place(config),
                folder=sweep_folder(config.hydra),
                name=" ".join(what) or "sweep",
                overrides=what,
                resume=found is not None,
            )
            self.found = Path(config.hydra.sweep.dir, FOUND)
            at_exit.callback(self.end, parent)
            name_by_what_varies(config)
            start_at_config(config)
            self.jobs, self.process = count_jobs(config), process.owner()
            if self.launcher.elsewhere:
                at_exit.enter_context(watch.watching(parent, self.jobs))

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Says how far the sweep is. A job in a process of its own says nothing: its sweep does, when it has ended."""
        if self.process and self.process != process.owner():
            launchers.leave_terminal()
            if self.launcher.kind == "JoblibLauncher":
                launchers.leave_with_parent()
        elif self.jobs:
            from initlab import watch

            number, whole = HydraConfig.get().job.num, self.times[1:] or self.times  # the first does what all need
            left = f", about {watch.duration(mean(whole) * (self.jobs - number))} to go" if whole else ""
            log.info(f"job {number + 1} of {self.jobs}{left}")
            # Of a job that was begun before, what is left of it says nothing of the others.
            self.started = None if run_is_in(config) else time.monotonic()

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

    experiment.build(OmegaConf.create(plain(config)), folder)


def refuse_bad_sweep(config: DictConfig, folder: Path) -> None:
    """Raises if a sweep would be recorded in more than one place, or one of its values can't be used."""
    swept = split_overrides(config)[0]
    for item in swept:
        if item.key_or_group.startswith(("tracking", "resume")):
            raise ValueError(f"{item.input_line}: a sweep is one record, and {item.key_or_group} one value")
    if is_search(config):
        from initlab import search

        search.check(config.hydra.sweeper, [item.key_or_group for item in swept])
    for job in one_by_one(config):
        refuse_bad_values(job, folder)


def refuse_bad_place(config: DictConfig, folder: Path) -> None:
    """Raises if the folder or the store can't be used; leaves the folder made, and nothing else."""
    from initlab import store

    registered_model(config, config.hydra)
    with made(folder):
        store.refuse_lost_artifacts(*store.connect(**place(config)))


def plain(config: DictConfig) -> dict[str, Any]:
    """What a run is: all of the config but Hydra's own, where it is recorded, which may hold a password, and resume."""
    keys = [key for key in config if key not in ("hydra", "tracking", "resume")]
    cfg = OmegaConf.masked_copy(config, keys)  # type: ignore[arg-type]
    return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]


def resumes(config: DictConfig) -> bool:
    """Whether an interrupted run is to be gone on with. Raises ValueError if it is neither said nor denied."""
    if type(config.resume) is not bool and not re.fullmatch("[0-9a-f]{32}", str(config.resume)):
        raise ValueError(f"resume is {config.resume!r}; expected true, false, or the id of a run, all 32 digits")
    return config.resume is not False


def run_id(config: DictConfig) -> str | None:
    """The run that is to be gone on with, if one is named."""
    return None if config.resume is True else str(config.resume)


def go_on_in(folder: Path | None, config: DictConfig, key: str) -> None:
    """Makes Hydra use the folder of an earlier run or sweep."""
    if folder is None:
        log.info(f"no interrupted {key} of this configuration is here: starting a new one")
        return
    log.info(f"resuming the {key} in {folder}")
    put_in(folder, config, key)


def put_in(folder: Path | str, config: DictConfig, key: str) -> None:
    """Makes Hydra use this folder."""
    name = f"hydra.{key}.dir"
    with open_dict(config), read_write(config.hydra):
        OmegaConf.update(config, name, str(folder))
        config.hydra.overrides.hydra.append(f"{name}='{folder}'")  # what jobs are composed from


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


def place(config: DictConfig) -> dict[str, Any]:
    """Where runs are recorded. Raises ValueError for a key that nothing here knows."""
    for name in config.tracking:
        if name not in ("uri", "experiment", "register"):
            raise ValueError(f"tracking.{name} is not known; expected uri, experiment or register")
    return {"uri": config.tracking.uri, "experiment": config.tracking.experiment}


def registered_model(config: DictConfig, job: Any) -> str | None:
    """What a run's model is registered as, if it is. Raises ValueError if it can't be."""
    from initlab import model

    register, experiment = config.tracking.get("register", False), config.tracking.experiment
    if type(register) is not bool:
        raise ValueError(f"tracking.register is {register!r}; expected true or false")
    if register and set("/:") & set(experiment):
        raise ValueError(f"tracking.experiment: no model can be registered under {experiment!r}: it has a / or a :")
    return f"{experiment}-{model.valid_name(choices(job).get('init', 'networks'))}" if register else None


def choices(job: Any) -> dict[str, str]:
    """The names of what was chosen, as MLflow lists them."""
    return {group: job.runtime.choices[group] for group in ("init", "model") if job.runtime.choices.get(group)}


def run_name(job: Any) -> str:
    """Its overrides, in a sweep those that vary, the init scheme first: init=kaiming,seed=1."""
    known = ["init", *(OmegaConf.select(job, "callbacks.record.shared") or [])]
    others = [item for item in overrides(job) if key(item) not in known]
    return ",".join([f"init={choices(job).get('init')}", *others])


def overrides(job: Any) -> list[str]:
    """What was overridden, but for where it is recorded, as an address may hold a password, and for resume."""
    return [item for item in job.overrides.task if not key(item).startswith(("tracking", "resume"))]


def key(override: str) -> str:
    """+optimizer.lr=0.1 -> optimizer.lr"""
    return override.lstrip("+~").partition("=")[0]


def split_overrides(config: DictConfig) -> tuple[list[Override], list[Override]]:
    """A sweep's overrides, from the command line and from `hydra.sweeper.params`: those that are swept, those that all
    jobs share.
    """
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    parsed = parser.parse_overrides([*params, *config.hydra.overrides.task])
    return [o for o in parsed if o.is_sweep_override()], [o for o in parsed if not o.is_sweep_override()]


def run_is_in(config: DictConfig) -> bool:
    """Whether the job's folder has a run already."""
    from initlab import journal

    return journal.run_in(Path(config.hydra.runtime.output_dir)) is not None


def one_by_one(config: DictConfig) -> Iterator[DictConfig]:
    """Configurations in which each swept value is seen, the others at their first; of a long list the first 20.

    A value that can't be used is so found before the first job, not when its turn comes: of an interval, its ends.
    Raises ValueError if a list is empty.
    """
    swept, shared = split_overrides(config)
    values = {}
    for item in swept:
        if item.is_discrete_sweep():
            values[item.get_key_element()] = list(islice(item.sweep_string_iterator(), TRIED))
            if not values[item.get_key_element()]:
                raise ValueError(f"{item.input_line} names no value")
        elif item.is_interval_sweep():
            ends: Any = item.value()
            if not ends.start < ends.end:
                raise ValueError(f"{item.input_line}: expected interval(low,high)")
            values[item.get_key_element()] = [str(ends.start), str(ends.end)]
    first = {key: choices[0] for key, choices in values.items()}
    jobs = [first] + [first | {key: value} for key, choices in values.items() for value in choices[1:]]
    loader = GlobalHydra.instance().config_loader()
    for job in jobs:
        words = [str(item.input_line) for item in shared] + [f"{key}={value}" for key, value in job.items()]
        yield loader.load_configuration(config.hydra.job.config_name, words, RunMode.RUN)


def name_by_what_varies(config: DictConfig) -> None:
    """Keeps what all jobs of a sweep share out of their names; but for init and model, so that a variant of a network
    has the same name in each sweep.
    """
    swept, shared = ({item.key_or_group for item in items} for items in split_overrides(config))
    keys = sorted(shared - swept - choices(config.hydra).keys())
    with open_dict(config), read_write(config.hydra):
        config.hydra.overrides.hydra.append(f"++hydra.callbacks.record.shared=[{','.join(keys)}]")


def is_search(config: DictConfig) -> bool:
    """Whether Optuna chooses the jobs."""
    return config.hydra.sweeper._target_.endswith(".OptunaSweeper")


def start_at_config(config: DictConfig) -> None:
    """Makes a search begin at the values that the configuration has: what it finds is compared with them."""
    sampler = config.hydra.sweeper.get("sampler")
    if sampler is not None and "start" in sampler:
        swept = split_overrides(config)[0]
        values = {item.get_key_element(): OmegaConf.select(config, item.key_or_group) for item in swept}
        with open_dict(config), read_write(config.hydra):
            sampler.start = {key: value for key, value in values.items() if value is not None} | dict(sampler.start)


def count_jobs(config: DictConfig) -> int:
    """How many jobs the sweep makes: the product of its keys' values, or a search's trials; 0 if it can't be told."""
    swept, _ = split_overrides(config)
    if is_search(config):
        return config.hydra.sweeper.n_trials
    if not config.hydra.sweeper._target_.endswith(".BasicSweeper") or not all(o.is_discrete_sweep() for o in swept):
        return 0
    return prod(len(list(item.sweep_string_iterator())) for item in swept)


def sweep_folder(job: Any) -> str:
    """Where a sweep's jobs have their folders; it also tells them their parent run."""
    return str(Path(job.runtime.cwd, job.sweep.dir))
