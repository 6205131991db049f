"""What a composed configuration says: about a run, where it is recorded, and the jobs of a sweep."""

import json
import re
from collections.abc import Iterator
from itertools import islice
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from initlab import atomic_files, processes, resolvers  # noqa: F401 (resolvers are registered)

if TYPE_CHECKING:
    from initlab.tracking.parent_run import ParentRun

SAMPLED = 20  # values of a swept key that are checked before a sweep starts; each takes some hundredths of a second
SHARED = "sweep.json"  # in the sweep's folder
NOT_OF_A_RUN = (
    "tracking",
    "resume",
    "allow",
    "reuse",
)  # keys that say where and how to record; `tracking` may hold a password


def run_config(config: DictConfig) -> dict[str, Any]:
    """Returns the run's configuration, resolved, without `hydra` and `NOT_OF_A_RUN`."""
    keys = [key for key in config if key not in ("hydra", *NOT_OF_A_RUN)]
    cfg = OmegaConf.masked_copy(config, keys)  # type: ignore[arg-type]
    return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]


def tracking_target(config: DictConfig) -> dict[str, Any]:
    """Returns where runs are recorded: {"uri", "experiment"}. Raises ValueError for an unknown key of `tracking`."""
    for name in config.tracking:
        if name not in ("uri", "experiment", "register", "ui_port"):
            raise ValueError(f"tracking.{name} is not known; expected uri, experiment, register or ui_port")
    return {"uri": config.tracking.uri, "experiment": config.tracking.experiment}


def registered_model(config: DictConfig, job: Any) -> str | None:
    """Returns the name under which a run's model is registered, if it is. Raises ValueError if it can't be."""
    from initlab.tracking.artifacts import registry_name

    register, experiment = config.tracking.get("register", False), config.tracking.experiment
    if type(register) is not bool:
        raise ValueError(f"tracking.register is {register!r}; expected true or false")
    if register and set("/:") & set(experiment):
        raise ValueError(f"tracking.experiment: no model can be registered under {experiment!r}, which contains / or :")
    return f"{experiment}-{registry_name(chosen_groups(job).get('init', 'networks'))}" if register else None


def ui_port(config: DictConfig) -> int | None:
    """Returns the port of this machine at which `mlflow ui` is to answer, if it is set. Raises ValueError."""
    port = config.tracking.get("ui_port")
    if port is not None and (type(port) is not int or not 1 <= port <= 65535):
        raise ValueError(f"tracking.ui_port is {port!r}; expected null or a number, 1 to 65535")
    return port


def is_resume(config: DictConfig) -> bool:
    """Returns whether to resume an interrupted run. Raises ValueError if `resume` is neither a bool nor a run's id."""
    if type(config.resume) is not bool and not re.fullmatch("[0-9a-f]{32}", str(config.resume)):
        raise ValueError(f"resume is {config.resume!r}; expected true, false, or the id of a run, all 32 digits")
    return config.resume is not False


def allowed_differences(config: DictConfig) -> list[str]:
    """Returns the parts of its provenance in which a resumed run may differ. Raises ValueError for an unknown one."""
    parts = OmegaConf.to_container(config.allow) if OmegaConf.is_list(config.allow) else None
    if not isinstance(parts, list) or not all(part in ("code", "packages", "data") for part in parts):
        raise ValueError(f"allow is {config.allow!r}; expected a list of code, packages, data, such as [code]")
    return parts


def is_reuse(config: DictConfig) -> bool:
    """Returns whether finished runs may take the place of jobs. Raises ValueError if `reuse` is not a bool.

    `dvc repro --force` is asked to train. DVC does not tell a stage so; its command line does.
    """
    if type(config.reuse) is not bool:
        raise ValueError(f"reuse is {config.reuse!r}; expected true or false")
    return config.reuse and not processes.is_forced_by_dvc()


def resume_run_id(config: DictConfig) -> str | None:
    """Returns the id of the run to resume, if one is named."""
    return None if config.resume is True else str(config.resume)


def chosen_groups(job: Any) -> dict[str, str]:
    """Returns the choices of the groups init, activation and model, which become tags of a run."""
    groups = ("init", "activation", "model")
    return {group: job.runtime.choices[group] for group in groups if job.runtime.choices.get(group)}


def run_name(job: Any) -> str:
    """Returns the run's overrides, init scheme first: init=kaiming,seed=1. In a sweep, only those that vary."""
    known = ["init", *(_shared_keys(job) if job.mode == RunMode.MULTIRUN else [])]
    others = [item for item in task_overrides(job) if override_key(item) not in known]
    return ",".join([f"init={chosen_groups(job).get('init')}", *others])


def task_overrides(job: Any) -> list[str]:
    """Returns the overrides of a run, without those of `NOT_OF_A_RUN`."""
    return [item for item in job.overrides.task if override_key(item).partition(".")[0] not in NOT_OF_A_RUN]


def override_key(override: str) -> str:
    """Returns the key of an override: +optimizer.lr=0.1 -> optimizer.lr."""
    return override.lstrip("+~").partition("=")[0]


def sweep_folder(job: Any) -> str:
    """Returns the absolute folder of a sweep. Its jobs have their folders in it, and find their parent run by it."""
    return str(Path(job.runtime.cwd, job.sweep.dir))


def set_output_dir(folder: Path | str, config: DictConfig, kind: str) -> None:
    """Makes Hydra use this folder. kind: `run` or `sweep`."""
    name = f"hydra.{kind}.dir"
    with open_dict(config), read_write(config.hydra):
        OmegaConf.update(config, name, str(folder))
        quoted = QuotedString(str(folder), Quote.single).with_quotes()
        config.hydra.overrides.hydra.append(f"{name}={quoted}")  # jobs are composed from this


def split_overrides(config: DictConfig) -> tuple[list[Override], list[Override]]:
    """Returns the overrides of a sweep that are swept, and the others; from command line and `hydra.sweeper.params`."""
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    parsed = parser.parse_overrides([*params, *config.hydra.overrides.task])
    return [o for o in parsed if o.is_sweep_override()], [o for o in parsed if not o.is_sweep_override()]


def sample_jobs(config: DictConfig) -> Iterator[DictConfig]:
    """Yields configurations of jobs in which each swept value occurs, while other keys have their first value.

    So a value that can't be used is found before the first job. Of a long list, the first 20 values are taken; of an
    interval, its ends. Raises ValueError if a list is empty or an interval is reversed.
    """
    swept, shared = split_overrides(config)
    values = {}
    for item in swept:
        if item.is_discrete_sweep():
            values[item.get_key_element()] = list(islice(item.sweep_string_iterator(), SAMPLED))
            if not values[item.get_key_element()]:
                raise ValueError(f"{item.input_line} has no value")
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
    """Returns the number of jobs: the product of the numbers of values, or the trials of a search; 0 if not known."""
    swept, _ = split_overrides(config)
    if is_search(config):
        return config.hydra.sweeper.n_trials
    if not config.hydra.sweeper._target_.endswith(".BasicSweeper") or not all(o.is_discrete_sweep() for o in swept):
        return 0
    return prod(len(list(item.sweep_string_iterator())) for item in swept)


def open_parent_run(config: DictConfig, *, resume: bool) -> "ParentRun":
    """Creates the parent run of a sweep, or reopens that of its folder. Raises store.TrackingError."""
    from initlab.tracking.parent_run import ParentRun

    overrides = task_overrides(config.hydra)
    return ParentRun(
        **tracking_target(config),
        folder=sweep_folder(config.hydra),
        name=" ".join(overrides) or "sweep",
        overrides=overrides,
        resume=resume,
        ui_port=ui_port(config),
    )


def write_shared_keys(config: DictConfig) -> None:
    """Notes in the sweep's folder which keys all jobs share, so that the names of jobs leave them out.

    init, activation and model are never left out, so that a variant of a network has the same name in every sweep.
    """
    swept, shared = ({item.key_or_group for item in items} for items in split_overrides(config))
    keys = sorted(shared - swept - chosen_groups(config.hydra).keys())
    atomic_files.write(Path(sweep_folder(config.hydra), SHARED), json.dumps({"shared": keys}).encode())


def _shared_keys(job: Any) -> list[str]:
    """Returns what `write_shared_keys` noted for the sweep of a job."""
    return json.loads(Path(sweep_folder(job), SHARED).read_text(encoding="utf-8"))["shared"]


def is_search(config: DictConfig) -> bool:
    """Returns whether Optuna chooses the jobs."""
    return config.hydra.sweeper._target_.endswith(".OptunaSweeper")


def start_search_at_config(config: DictConfig) -> None:
    """Makes a search begin at the values of the configuration, which are the baseline of its results."""
    sampler = config.hydra.sweeper.get("sampler")
    if sampler is not None and "start" in sampler:
        swept = split_overrides(config)[0]
        values = {item.get_key_element(): OmegaConf.select(config, item.key_or_group) for item in swept}
        with open_dict(config), read_write(config.hydra):
            sampler.start = {key: value for key, value in values.items() if value is not None} | dict(sampler.start)
