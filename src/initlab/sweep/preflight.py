"""Checks before anything starts: every value, the data, the folder and the tracking store."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from initlab.sweep import config as configs


def check_run(config: DictConfig, folder: Path) -> None:
    """Raises if a run's values, data, folder or store can't be used. Creates the folder and nothing else."""
    check_values(config, folder)
    check_target(config, folder)


def check_sweep(config: DictConfig, folder: Path) -> None:
    """Raises if the sweep would be recorded in several places, or if one of its values can't be used."""
    swept = configs.split_overrides(config)[0]
    for item in swept:
        if item.key_or_group.startswith(("tracking", "resume")):
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
