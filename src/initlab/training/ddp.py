"""The processes of a run on several devices. This process is rank 0 and records the run; the others only train."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import distributed, multiprocessing

from initlab import processes

GRACE = 2  # seconds a rank has to exit after rank 0 has gone


@contextmanager
def other_ranks(train: Callable[[Path], None], folder: Path, devices: int) -> Iterator[None]:
    """Within the context, `devices` - 1 further processes call `train(folder)`, each as one rank of Lightning's DDP.

    Lightning would run this process's command again for each rank, which may be a whole sweep. It does not if the
    environment names a rank and an address. Raises RuntimeError if one of the processes fails.
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
    started = None
    try:
        if devices > 1:
            started = multiprocessing.start_processes(
                _run_rank, (train, folder), nprocs=devices - 1, join=False, start_method="spawn"
            )
        yield
        if started is not None:
            for process in started.processes:
                process.join()
            _raise_if_failed(started.processes)
    except Exception as error:
        if started is not None:
            for process in started.processes:  # the failure of a rank may be the cause
                process.join(1)
            _raise_if_failed(started.processes, error)
        raise
    finally:
        for process in started.processes if started is not None else []:
            process.kill()  # if it has not ended: it holds nothing that rank 0 lacks
            process.join()
        if distributed.is_initialized():
            distributed.destroy_process_group()  # the next run creates its own
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class RestoreSigterm(Callback):
    """Replaces Lightning's SIGTERM handler by ours. Lightning's would wait, inside the handler, for all devices."""

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        processes.restore_sigterm()

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        processes.restore_sigterm()

    def on_test_start(self, trainer: Trainer, module: LightningModule) -> None:
        processes.restore_sigterm()


def _run_rank(index: int, train: Callable[[Path], None], folder: Path) -> None:
    os.environ["LOCAL_RANK"] = str(index + 1)
    if hasattr(os, "setsid"):
        os.setsid()  # in a session of its own: Ctrl-C reaches rank 0 only, which ends the others
    processes.leave_with_parent(GRACE)
    with processes.exit_on_signals():
        train(folder)


def _raise_if_failed(ranks: list, cause: Exception | None = None) -> None:
    for rank, process in enumerate(ranks, start=1):
        if process.exitcode:
            raise RuntimeError(f"the process of device {rank} ended with exit code {process.exitcode}") from cause


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
