"""Hydra's launchers: checked before a sweep starts, and stopped without leaving processes or queued jobs behind."""

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

from initlab import processes

GRACE = 10  # seconds that jobs have to record their end if their sweep ends first


class Launcher:
    """The launcher of a sweep's jobs.

    name: the choice of hydra/launcher.  target: Hydra's class for it.  remote: whether jobs run in other processes.
    shows_jobs: whether the launcher itself shows how its jobs get on.
    """

    def __init__(self, name: str, target: str) -> None:
        self.name, self.target = name, target
        self.kind = target.rpartition(".")[2]
        self.remote = self.kind != "BasicLauncher"
        self.shows_jobs = self.kind in ("BasicLauncher", "BatchedLauncher")
        self.slurm_jobs = Path()  # submitit's folders, one per Slurm job and named by its number

    def check_installed(self) -> None:
        """Raises ValueError if the launcher's packages, or the programs it calls, are not installed."""
        check_plugin(f"hydra/launcher={self.name}", self.target)
        if self.kind == "SlurmLauncher" and shutil.which("sbatch") is None:
            raise ValueError(f"hydra/launcher={self.name}: no sbatch here; start it where Slurm's jobs are submitted")

    def warm_up(self, settings: Any) -> None:
        """Starts what takes seconds, while this process does other things. settings: from conf/hydra/launcher.

        Raises ValueError for a setting that is out of range.
        """
        if self.kind == "BatchedLauncher":
            from initlab.sweep import batched

            batched.check_settings(settings["workers"], settings["max_replicas"])
            batched.start_server()

    def start(self, settings: Any) -> None:
        """Prepares the launcher. settings: from conf/hydra/launcher.  Raises OSError if a cluster does not answer."""
        if self.kind == "RayLauncher":
            self._start_ray(settings["ray"]["init"])
        elif self.kind == "LocalLauncher":
            os.environ.setdefault("OMP_NUM_THREADS", "1")  # for each job, since all run at once
        elif self.kind == "SlurmLauncher":
            self.slurm_jobs = Path(settings["submitit_folder"]).parent

    def _start_ray(self, settings: dict[str, Any]) -> None:
        """Connects to Ray for the launcher. Ray itself would try for minutes."""
        import ray

        found = re.fullmatch(r"([^/:]+):(\d+)", settings["address"] or "")
        if found is not None:
            try:
                socket.create_connection((found[1], int(found[2])), timeout=5).close()
            except OSError as error:
                raise OSError(f"no Ray cluster answers at {settings['address']}: {error.strerror or error}") from error
        ray.init(**settings)

    def stop(self) -> None:
        """Ends the jobs that are left if their sweep ends first."""
        if self.kind == "SlurmLauncher":
            numbers = {path.name.partition("_")[0] for path in self.slurm_jobs.glob("[0-9]*")}
            subprocess.run(["scancel", *sorted(numbers)], check=False)
        elif self.kind == "RayLauncher":
            import ray

            ray.shutdown()
        processes.end_children(GRACE)


def check_plugin(choice: str, target: str) -> None:
    """Raises ValueError if the plugin with Hydra's class `target` is not installed.

    choice: the override that selects it, such as hydra/launcher=ray.
    """
    plugin = re.match(r"(hydra_plugins\.hydra_(\w+)_(?:sweeper|launcher))\.", target)
    # hydra_plugins exists if any plugin is installed
    if plugin is not None and not (find_spec("hydra_plugins") and find_spec(plugin[1])):
        install = f'pip install -c constraints.txt -e ".[{plugin[2]}]"'
        raise ValueError(f"{choice} needs packages that are not installed: {install}")


def change_to(project: Path) -> None:
    """Makes the project the working directory of a job, which may have started elsewhere on another machine.

    Raises ValueError if the project is not there.
    """
    try:
        os.chdir(project)
    except OSError as error:
        raise ValueError(
            f"{platform.node()} has no {project}: jobs need the project where their sweep was started"
        ) from error


def prepare_job_process(target: str) -> None:
    """Prepares the process of a job that runs beside others: only warnings go to the terminal.

    Everything is in train.log in the job's folder. target: Hydra's class for the launcher.
    """
    if target.endswith(".JoblibLauncher"):
        processes.leave_with_parent(GRACE)
    for handler in logging.getLogger().handlers:
        if type(handler) is logging.StreamHandler:
            handler.setLevel(logging.WARNING)
