"""A Slurm of one machine, of the programs that Debian's packages slurmctld, slurmd and slurm-client bring."""

import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from helpers.servers import free_port

PROGRAMS = "slurmctld", "slurmd", "slurmstepd", "sbatch", "srun", "scancel"
SEARCHED = os.pathsep.join([os.environ["PATH"], "/usr/sbin"])
MISSING = [name for name in PROGRAMS if shutil.which(name, path=SEARCHED) is None]
CONFIGURATION = """
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={other}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
AuthInfo=cred_expire=5
CredType=cred/none
CryptoType=crypto/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=5
SchedulerParameters=batch_sched_delay=0,sched_interval=1
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory={memory}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PluginDir={plugins}
"""


# Where the packages were unpacked elsewhere, their plugins lie there too.
PLUGINS = (
    Path(shutil.which("slurmctld", path=SEARCHED) or "/usr/sbin/x").parents[1] / "lib" / "x86_64-linux-gnu/slurm-wlm"
)


@contextmanager
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """The environment in which sbatch finds it."""
    settings = CONFIGURATION.format(
        host=socket.gethostname().partition(".")[0],
        port=free_port(),
        other=free_port(),
        user=pwd.getpwuid(os.getuid()).pw_name,
        folder=folder,
        cores=os.cpu_count(),
        memory=psutil.virtual_memory().total >> 20,
        plugins=PLUGINS,
    )
    (folder / "slurm.conf").write_text(settings, encoding="utf-8")
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    environment = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": SEARCHED}
    stepd = shutil.which("slurmstepd", path=SEARCHED)
    daemons = []
    try:
        for words in (["slurmctld", "-D"], ["slurmd", "-D", "-d", str(stepd)]):
            with (folder / f"{words[0]}.out").open("w", encoding="utf-8") as output:
                daemons.append(
                    subprocess.Popen(words, env=os.environ | environment, stdout=output, stderr=output, cwd=folder)
                )
        end = time.monotonic() + 60
        while "idle" not in _said(["sinfo", "--noheader", "--format=%T"], environment):
            if time.monotonic() > end or any(daemon.poll() is not None for daemon in daemons):
                raise RuntimeError("\n".join(path.read_text(encoding="utf-8") for path in folder.glob("slurm*.*")))
            time.sleep(0.2)
        yield environment
    finally:
        for daemon in daemons:
            daemon.terminate()
            daemon.wait(30)


def _said(words: list[str], environment: dict[str, str]) -> str:
    return subprocess.run(words, env=os.environ | environment, capture_output=True, encoding="utf-8").stdout
