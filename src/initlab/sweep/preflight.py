"""Checks before anything starts: every value, the data, the folder and the tracking store."""

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from initlab import processes
from initlab.sweep import config as configs
from initlab.sweep.launchers import Launcher, check_plugin

log = logging.getLogger(__name__)


def import_libraries() -> None:
    """Imports what takes seconds. A signal meanwhile ends the process at once."""
    with processes.leave_at_once_on_signals():
        import initlab.sweep.session
        import initlab.tracking.run_logger
        import initlab.training.fit  # noqa: F401
    gc.freeze()  # what was imported is there until the process ends: searching it for garbage then would take seconds


def check_plugins(config: DictConfig, launcher: Launcher) -> None:
    """Raises ValueError if the packages of the launcher or the sweeper are not installed."""
    launcher.check_installed()
    sweeper = config.hydra.runtime.choices["hydra/sweeper"]
    check_plugin(f"hydra/sweeper={sweeper}", config.hydra.sweeper._target_)


def prepare_run(config: DictConfig) -> None:
    """Checks a single run. Makes Hydra use its folder if one is to be resumed; creates the folder if not.

    Raises if a value, the data, the folder or the store can't be used.
    """
    from initlab.tracking import journal, resume

    if configs.is_resume(config):
        target, run_id = configs.tracking_target(config), configs.resume_run_id(config)
        found = resume.find_resumable_run(**target, config=configs.run_config(config), run_id=run_id)
        _resume_in(found, config, "run")
    else:
        journal.check_unused(Path(config.hydra.run.dir))
    check_values(config, Path(config.hydra.run.dir))
    check_target(config, Path(config.hydra.run.dir))


def prepare_sweep(config: DictConfig, launcher: Launcher) -> bool:
    """Checks a sweep, and starts its launcher. Makes Hydra use the folder of the sweep that is resumed, if any.

    Returns whether a sweep is resumed. Raises if a value, the data, the folder or the store can't be used.
    """
    from initlab.tracking import journal, resume

    found = None
    if configs.is_resume(config):
        target, run_id = configs.tracking_target(config), configs.resume_run_id(config)
        overrides = configs.task_overrides(config.hydra)
        found = resume.find_resumable_sweep(**target, overrides=overrides, run_id=run_id)
        _resume_in(found, config, "sweep")
    if found is None:
        journal.check_unused(Path(config.hydra.sweep.dir))
    check_sweep(config, Path(config.hydra.sweep.dir))
    if launcher.remote:
        # absolute, whatever a job's working directory is
        configs.set_output_dir(configs.sweep_folder(config.hydra), config, "sweep")
        launcher.start(OmegaConf.to_container(config.hydra.launcher, resolve=True))
    check_target(config, Path(config.hydra.sweep.dir))
    return found is not None


def check_sweep(config: DictConfig, folder: Path) -> None:
    """Raises if the sweep would be recorded in several places, or if one of its values can't be used."""
    swept = configs.split_overrides(config)[0]
    for item in swept:
        if item.key_or_group.partition(".")[0] in configs.NOT_OF_A_RUN:
            raise ValueError(f"{item.input_line}: a sweep has one record, so {item.key_or_group} takes one value")
    if configs.is_search(config):
        from initlab.sweep import search

        search.check_settings(config.hydra.sweeper, [item.key_or_group for item in swept])
    for job in configs.sample_jobs(config):
        check_values(job, folder)


def check_values(config: DictConfig, folder: Path) -> None:
    """Raises if a value or the data can't be used."""
    from initlab.training.build import build

    build(OmegaConf.create(configs.run_config(config)), folder)


def check_target(config: DictConfig, folder: Path) -> None:
    """Raises if the folder or the store can't be used. Creates the folder and nothing else."""
    from initlab.tracking import store

    configs.registered_model(config, config.hydra)
    configs.allowed_differences(config)
    configs.is_reuse(config)
    configs.ui_port(config)
    with created_folder(folder):
        store.check_artifact_store(*store.connect(**configs.tracking_target(config)))


@contextmanager
def created_folder(folder: Path) -> Iterator[None]:
    """Creates a folder and checks that it is writable. Within the context, removes it again if the body raises.

    Raises OSError if it can't be written.
    """
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


def _resume_in(folder: Path | None, config: DictConfig, kind: str) -> None:
    """Makes Hydra use the folder of an earlier run or sweep."""
    if folder is None:
        log.info(f"no interrupted {kind} of this configuration is here: starting a new one")
        return
    log.info(f"resuming the {kind} in {folder}")
    configs.set_output_dir(folder, config, kind)
