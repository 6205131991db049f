"""The processes of a run on several devices: this one is rank 0, and records the run; the others only train."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from torch import distributed


@contextmanager
def others(folder: Path, devices: int) -> Iterator[None]:
    """While it lasts, `devices` - 1 processes train with this one what the run in `folder` is.

    Lightning would start this process's command again for them, which records a run of its own, or sweeps; told of its
    rank and of a place to meet, it starts none. Raises RuntimeError if one of them fails.
    """
    settings = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "NODE_RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": str(devices),
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    started: list[subprocess.Popen] = []
    try:
        for rank in range(1, devices):
            command = [sys.executable, "-m", "initlab.follow", str(folder)]
            # A session of its own: Ctrl-C is for this process, which ends the others.
            environment = os.environ | {"LOCAL_RANK": str(rank)}
            started.append(subprocess.Popen(command, env=environment, start_new_session=True))
        yield
        for rank, process in enumerate(started, start=1):
            if process.wait():
                raise RuntimeError(_ended(rank, process))
    except Exception as error:
        for rank, process in enumerate(started, start=1):
            with suppress(subprocess.TimeoutExpired):  # what failed here first is what is told
                if process.wait(1):
                    raise RuntimeError(_ended(rank, process)) from error
        raise
    finally:
        for process in started:
            process.kill()  # if it is not gone by itself: there is nothing that it alone knows
            process.wait()
        if distributed.is_initialized():
            distributed.destroy_process_group()  # the next run meets others
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _ended(rank: int, process: subprocess.Popen) -> str:
    return f"the process of device {rank} ended with exit code {process.returncode}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
