"""Around a run: its objects made from the config, bad input refused before anything is written, a sweep's parent run.

Nothing heavy is imported at the top: `--help`, `--cfg` and completion need none of it, and torch,
Lightning and MLflow take seconds.
"""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, InstantiationException
from hydra.experimental.callback import Callback
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from initlab import process

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

    from initlab import lit, track

at_exit = ExitStack()  # train.py closes it when Hydra returns or exits: Hydra calls no hook when a job has failed


def build(cfg: DictConfig, folder: Path) -> "tuple[Trainer, lit.Network, lit.Images]":
    """The objects of a run, each of which refuses bad values as it is made. folder: where its checkpoints go."""
    from initlab import lit, mnist

    if not OmegaConf.is_list(cfg.model.hidden):
        raise ValueError(f"model.hidden is {cfg.model.hidden!r}; expected a list of widths, [100] for one layer")
    if type(cfg.trainer.max_epochs) is not int or cfg.trainer.max_epochs == 0:
        raise ValueError(f"trainer.max_epochs is {cfg.trainer.max_epochs!r}; expected at least 1, or -1 for no end")
    if not OmegaConf.is_dict(cfg.stats):
        raise ValueError(f"stats is {cfg.stats!r}; expected `every` and `probe`")
    devices = str(cfg.trainer.get("devices"))
    if devices.isdecimal() and int(devices) > 1:  # before Lightning makes a list of as many
        raise ValueError(f"trainer: {devices} devices; replicas are trained on one")
    network = lit.Network(
        hidden=list(cfg.model.hidden),
        replicas=cfg.replicas,
        seed=cfg.seed,
        scheme=instantiate(cfg.init.weights),
        activation=instantiate(cfg.init.activation),
        loss=instantiate(cfg.loss),
        optimizer=instantiate(cfg.optimizer),
        every=cfg.stats.every,
        probe=cfg.stats.probe,
    )
    trainer = instantiate(cfg.trainer, default_root_dir=folder)
    lit.check(trainer)
    if (folder / "checkpoints").exists():
        raise ValueError(f"{folder} holds the checkpoints of an earlier run; name another folder")
    images = lit.Images(cfg.data.folder, batch_size=cfg.data.batch_size, seed=cfg.seed)
    images.prepare_data()
    classes = mnist.read_facts(images.folder)["classes"]
    if 1 < network.loss.outputs < classes:
        raise ValueError(f"loss.outputs is {network.loss.outputs}; the data has {classes} classes")
    return trainer, network, images


class Record(Callback):
    """Hydra's hooks: bad input is refused before a folder is made; a sweep is a parent run of its jobs.

    folder: where a sweep's results go.  report: whether a report on them is written beside them, and kept with the run.
    """

    def __init__(self, folder: str, report: bool = True) -> None:
        self.folder, self.report = Path(folder), report
        self.status = "FAILED"

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        at_exit.enter_context(process.exit_on_signals())
        with or_exit():
            refuse_bad_input(config, Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        at_exit.enter_context(process.exit_on_signals())
        with or_exit():
            refuse_bad_input(config, Path(config.hydra.sweep.dir))
            from initlab import track

            name = " ".join(overrides(config.hydra)) or "sweep"
            sweep = track.Sweep(**config.tracking, folder=sweep_folder(config.hydra), name=name)
            at_exit.callback(self.end, sweep)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        self.status = "FINISHED"

    def end(self, sweep: "track.Sweep") -> None:
        """Gathers the results of all finished jobs, reports on them with the parent run, and ends it."""
        from initlab import report, results

        try:
            found = sweep.results()
            if found is not None:
                results.save(found, self.folder)
                sweep.tag_results(results.digest(self.folder))
                print(f"\n{report.comparison(found)}")
                if self.report:
                    names = report.write(found, self.folder / "report")
                    sweep.keep(self.folder / "report", names)
                    print(f"report: {self.folder / 'report' / 'index.html'}")
        except BaseException:
            self.status = "FAILED"
            raise
        finally:
            sweep.finish(self.status)


def refuse_bad_input(config: DictConfig, folder: Path) -> None:
    """Raises if a value, the data, the folder or the store can't be used; leaves the folder made, and nothing else."""
    HydraConfig.instance().set_config(config)
    cfg = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])  # type: ignore[misc]
    build(cfg, folder)
    process.leave_if_told()  # a signal may have come while a library was imported, and have been swallowed there
    with made(folder):
        from initlab import store

        store.connect(**cfg.tracking)


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
        message, _, rest = str(error).partition("full_key: ")  # Hydra and OmegaConf name the key on a line of its own
        key = rest.partition("\n")[0]
        if isinstance(error, InstantiationException):
            message = str(error.__cause__ or "") or message
        line = " ".join(message.split())
        raise CompactHydraException(f"{key}: {line}" if key else line) from error


def run_name(job: Any) -> str:
    """Its overrides, the init scheme first: init=kaiming,seed=1."""
    others = [item for item in overrides(job) if not item.startswith("init=")]
    return ",".join([f"init={job.runtime.choices.init}", *others])


def overrides(job: Any) -> list[str]:
    """What was overridden, but for where it is recorded: an address may hold a password."""
    return [item for item in job.overrides.task if not item.lstrip("+~").startswith("tracking")]


def sweep_folder(job: Any) -> str:
    """Where a sweep's jobs have their folders; it also tells them their parent run."""
    return str(Path(job.runtime.cwd, job.sweep.dir))
