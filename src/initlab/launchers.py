"""The engines that run a sweep's jobs: there before it begins, and nothing of theirs left when it ends."""

import logging
import os
import platform
import re
import shutil
import socket
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from initlab import process

GRACE = 10  # seconds that jobs have to record their end, if their sweep ends before them


class Launcher:
    """What starts a sweep's jobs. name: the choice of hydra/launcher.  target: Hydra's class for it, in full."""

    def __init__(self, name: str, target: str) -> None:
        self.name, self.target = name, target
        self.kind = target.rpartition(".")[2]
        self.elsewhere = self.kind != "BasicLauncher"  # whether jobs run in other processes
        self.jobs = Path()  # where submitit has a folder for each of Slurm's, named by its number

    def refuse_missing(self) -> None:
        """Raises ValueError if its packages, or the programs it calls, are not here."""
        refuse_missing(f"hydra/launcher={self.name}", self.target)
        if self.kind == "SlurmLauncher" and shutil.which("sbatch") is None:
            raise ValueError(f"hydra/launcher={self.name}: no sbatch here; start it where Slurm's jobs are submitted")

    def begin(self, settings: Any) -> None:
        """Readies it. settings: of conf/hydra/launcher.  Raises OSError if a cluster does not answer."""
        if self.kind == "RayLauncher":
            self._begin_ray(settings["ray"]["init"])
        elif self.kind == "LocalLauncher":
            os.environ.setdefault("OMP_NUM_THREADS", "1")  # of each job: they all run at once
        elif self.kind == "SlurmLauncher":
            self.jobs = Path(settings["submitit_folder"]).parent

    def _begin_ray(self, settings: dict[str, Any]) -> None:
        """The launcher takes a connection that is there. Ray itself would try for minutes."""
        import ray

        found = re.fullmatch(r"([^/:]+):(\d+)", settings["address"] or "")
        if found is not None:
            try:
                socket.create_connection((found[1], int(found[2])), timeout=5).close()
            except OSError as error:
                raise OSError(f"no Ray cluster answers at {settings['address']}: {error.strerror or error}") from error
        ray.init(**settings)

    def end(self) -> None:
        """Ends what is left of the jobs of a sweep that ends before them."""
        if self.kind == "SlurmLauncher":
            numbers = {path.name.partition("_")[0] for path in self.jobs.glob("[0-9]*")}
            subprocess.run(["scancel", *sorted(numbers)], check=False)
        elif self.kind == "RayLauncher":
            import ray

            ray.shutdown()
        process.end_children(GRACE)


def refuse_missing(choice: str, target: str) -> None:
    """Raises ValueError if Hydra's class `target`, named by hydra/launcher=ray, say, is in no plugin that is here."""
    plugin = re.match(r"(hydra_plugins\.hydra_(\w+)_(?:sweeper|launcher))\.", target)
    if plugin is not None and not (find_spec("hydra_plugins") and find_spec(plugin[1])):  # the first: of any plugin
        install = f"pip install -c constraints.txt -e '.[{plugin[2]}]'"
        raise ValueError(f"{choice} needs packages that are not installed: {install}")


def go_to(project: Path) -> None:
    """Makes the project the working directory of a job, which another machine may have begun elsewhere.

    Raises ValueError if it is not there.
    """
    try:
        os.chdir(project)
    except OSError as error:
        raise ValueError(
            f"{platform.node()} has no {project}: jobs need the project where their sweep was started"
        ) from error


def leave_terminal() -> None:
    """Of several jobs at once the terminal gets warnings alone; train.log in each one's folder has all they say."""
    for handler in logging.getLogger().handlers:
        if type(handler) is logging.StreamHandler:
            handler.setLevel(logging.WARNING)
