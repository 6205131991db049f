"""What a composed configuration says: of a run, of where it is recorded, of the jobs that a sweep will make."""

import re
from collections.abc import Iterator
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

TRIED = 20  # values of a swept key, before a sweep starts: some hundredths of a second each


def plain(config: DictConfig) -> dict[str, Any]:
    """What a run is: all of the config but Hydra's own, where it is recorded, which may hold a password, and resume."""
    keys = [key for key in config if key not in ("hydra", "tracking", "resume")]
    cfg = OmegaConf.masked_copy(config, keys)  # type: ignore[arg-type]
    return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]


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


def resumes(config: DictConfig) -> bool:
    """Whether an interrupted run is to be gone on with. Raises ValueError if it is neither said nor denied."""
    if type(config.resume) is not bool and not re.fullmatch("[0-9a-f]{32}", str(config.resume)):
        raise ValueError(f"resume is {config.resume!r}; expected true, false, or the id of a run, all 32 digits")
    return config.resume is not False


def run_id(config: DictConfig) -> str | None:
    """The run that is to be gone on with, if one is named."""
    return None if config.resume is True else str(config.resume)


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


def sweep_folder(job: Any) -> str:
    """Where a sweep's jobs have their folders; it also tells them their parent run."""
    return str(Path(job.runtime.cwd, job.sweep.dir))


def run_is_in(config: DictConfig) -> bool:
    """Whether the job's folder has a run already."""
    from initlab import journal

    return journal.run_in(Path(config.hydra.runtime.output_dir)) is not None


def put_in(folder: Path | str, config: DictConfig, key: str) -> None:
    """Makes Hydra use this folder."""
    name = f"hydra.{key}.dir"
    with open_dict(config), read_write(config.hydra):
        OmegaConf.update(config, name, str(folder))
        config.hydra.overrides.hydra.append(f"{name}='{folder}'")  # what jobs are composed from


def split_overrides(config: DictConfig) -> tuple[list[Override], list[Override]]:
    """A sweep's overrides, from the command line and from `hydra.sweeper.params`: those that are swept, those that all
    jobs share.
    """
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    parsed = parser.parse_overrides([*params, *config.hydra.overrides.task])
    return [o for o in parsed if o.is_sweep_override()], [o for o in parsed if not o.is_sweep_override()]


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


def count_jobs(config: DictConfig) -> int:
    """How many jobs the sweep makes: the product of its keys' values, or a search's trials; 0 if it can't be told."""
    swept, _ = split_overrides(config)
    if is_search(config):
        return config.hydra.sweeper.n_trials
    if not config.hydra.sweeper._target_.endswith(".BasicSweeper") or not all(o.is_discrete_sweep() for o in swept):
        return 0
    return prod(len(list(item.sweep_string_iterator())) for item in swept)


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
