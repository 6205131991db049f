"""Around a run: its objects made from the config, bad input refused before anything is written, a sweep's parent run.

Hydra and standard library alone are imported at the top: `--help`, `--cfg` and completion need nothing else, and
torch, Lightning and MLflow take seconds.
"""

import os
import sys
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

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

    from initlab import lit, track

at_exit = ExitStack()  # train.py closes it when Hydra returns or exits: Hydra calls no hook when a job has failed


def build(cfg: DictConfig, folder: Path | None = None) -> "tuple[Trainer, lit.Network, lit.Images]":
    """The objects of a run; each refuses bad values as it is made. folder: where checkpoints go."""
    from initlab import lit

    network = lit.Network(
        hidden=OmegaConf.to_object(cfg.model.hidden),  # type: ignore[arg-type]
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
    if trainer.max_epochs == 0:
        raise ValueError("trainer.max_epochs is 0; expected at least 1, or -1 for no end")
    images = lit.Images(cfg.data.folder, batch_size=cfg.data.batch_size, seed=cfg.seed)
    images.prepare_data()
    return trainer, network, images


class Record(Callback):
    """Hydra's hooks: bad input is refused before a folder is made; a sweep is a parent run of its jobs.

    folder: where a sweep's replicas.csv goes.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.status = "FAILED"

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        refuse_bad_input(config, Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        refuse_bad_input(config, Path(config.hydra.sweep.dir))
        from initlab import process, track

        at_exit.enter_context(process.exit_on_signals())
        name = " ".join(config.hydra.overrides.task) or "sweep"
        sweep = track.Sweep.start(**config.tracking, folder=sweep_folder(config.hydra), name=name)
        at_exit.callback(self.end, sweep)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        self.status = "FINISHED"

    def end(self, sweep: "track.Sweep") -> None:
        """Gathers the replicas of all finished jobs, tabulates them with the parent run, and ends it."""
        from initlab import report

        tables: dict[str, str] = {}
        try:
            replicas = sweep.replicas()
            if not replicas.empty:
                tables = report.tables(replicas)
                path = Path(self.folder, "replicas.csv")
                path.parent.mkdir(parents=True, exist_ok=True)
                replicas.to_csv(path, index=False)
                print(f"\n{tables['comparison.md']}\nevery replica: {path}\nbrowse them:   mlflow ui")
        except BaseException:
            self.status = "FAILED"
            raise
        finally:
            sweep.finish(self.status, tables)


def refuse_bad_input(config: DictConfig, folder: Path) -> None:
    """Ends the program with one line if the data, the store, the folder or a value can't be used."""
    HydraConfig.instance().set_config(config)
    cfg = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])  # type: ignore[misc]
    try:
        with one_line():
            build(cfg)
            with made(folder):
                from initlab import track

                track.connect(**cfg.tracking)
    except CompactHydraException as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            sys.excepthook(type(error), error, error.__traceback__)
        sys.exit(f"error: {error}")


@contextmanager
def made(folder: Path) -> Iterator[None]:
    """Makes the folder that Hydra is about to make, and takes it away again if the body fails."""
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if new:
            os.removedirs(folder)
        raise


@contextmanager
def one_line() -> Iterator[None]:
    """Turns a refusal, whichever library it comes from, into the kind that Hydra prints without a stack trace."""
    try:
        yield
    except InstantiationException as error:
        key = str(error).rpartition("full_key: ")[2]
        raise CompactHydraException(f"{key}: {error.__cause__ or error}") from error
    except (ValueError, TypeError, OSError, OmegaConfBaseException) as error:
        raise CompactHydraException(str(error)) from error


def run_name(job: Any) -> str:
    """Its overrides, the init scheme first: init=kaiming,seed=1."""
    others = [item for item in job.overrides.task if not item.startswith("init=")]
    return ",".join([f"init={job.runtime.choices.init}", *others])


def sweep_folder(job: Any) -> str:
    """Where a sweep's jobs have their folders; it also tells them their parent run."""
    return str(Path(job.runtime.cwd, job.sweep.dir))
