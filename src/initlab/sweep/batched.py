"""Runs a sweep's jobs in worker processes on this machine, one core each.

A worker trains one job after the other, each as it would be trained alone, so its numbers have the same bits. On Linux,
workers are forked from a server that has imported the libraries once.
"""

import logging
import multiprocessing
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import pairwise
from logging.handlers import QueueHandler
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, NamedTuple

import cloudpickle
import psutil
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, configure_log, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from initlab import processes
from initlab.checks import check_int
from initlab.data import normalized_files
from initlab.sweep import config as configs
from initlab.sweep.errors import concise_errors
from initlab.sweep.job_table import JobTable
from initlab.sweep.launchers import GRACE

SHARE = 0.5  # of the free memory, for the networks that are trained at once
CHUNK = 500  # images that are evaluated at a time


class Task(NamedTuple):
    """A job to run.

    config: as Hydra has composed it.  work: about how many multiplications its training takes, in relative terms.
    bytes: about how much memory its networks take.  device: `cpu`, `cuda` or `mps`.
    """

    number: int
    config: DictConfig
    name: str
    replicas: int
    work: int
    bytes: int
    device: str


def check_settings(workers: Any, max_replicas: Any) -> None:
    """Raises ValueError for a setting of the launcher that is out of range."""
    for name, value in {"workers": workers, "max_replicas": max_replicas}.items():
        if value is not None:
            check_int(f"hydra.launcher.{name}", value, least=1)


def start_server() -> None:
    """Starts the server of worker processes, which imports the libraries while this process does."""
    if sys.platform == "linux":
        from multiprocessing import forkserver  # not for Windows

        forkserver.set_forkserver_preload(["initlab.sweep.preload"])
        with _one_thread():
            forkserver.ensure_running()


def launch(
    context: HydraContext,
    task_function: TaskFunction,
    config: DictConfig,
    overrides: Sequence[Sequence[str]],
    first: int,
    *,
    workers: int | None,
    max_replicas: int | None,
) -> list[JobReturn]:
    """Runs the jobs with these overrides, and returns what each returned or raised.

    first: number of the first job.  workers, max_replicas: see `BatchedLauncher`.
    Raises CompactHydraException if the networks of a job don't fit in the memory, or if a worker process is lost.
    """
    setup_globals()
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    with concise_errors():
        tasks = [_task(context, config, words, number) for number, words in enumerate(overrides, first)]
        count = count_workers(tasks, workers, max_replicas)
    return _run(context, task_function, tasks, count)


def count_workers(tasks: Sequence[Task], workers: int | None, max_replicas: int | None) -> int:
    """Returns the number of workers, given the limits of `BatchedLauncher`.

    Raises ValueError if the networks of a job don't fit in the memory.
    """
    free = psutil.virtual_memory().available
    largest = max(tasks, key=lambda task: task.bytes)
    if largest.bytes > free:
        raise ValueError(
            f"{largest.name}: {largest.replicas} networks take about {largest.bytes / 1e9:.1f} GB; {free / 1e9:.1f} GB "
            "of memory are free: expected fewer replicas"
        )
    if workers is None:
        workers = _cores() if all(task.device == "cpu" for task in tasks) else 1
    if max_replicas is None:
        fitting = int(SHARE * free / largest.bytes)
    else:
        fitting = max_replicas // max(task.replicas for task in tasks)
    return max(min(workers, len(tasks), fitting), 1)


def threads_per_job(jobs: int, workers: int, cores: int) -> list[int]:
    """Returns the number of threads of each job, in the order in which they start.

    That is cores / workers, but the last jobs share the cores of the workers that have nothing left to do: 3 jobs on 2
    cores take 1, 1 and 2 threads.
    """
    last = jobs % workers
    return [max(cores // workers, 1)] * (jobs - last) + [max(cores // max(last, 1), 1)] * last


def bytes_per_replica(widths: Sequence[int], *, batch_size: int, probe: int) -> int:
    """Returns about how much memory a network takes while it is trained, in bytes.

    That is float32 weights, their gradients and two moments; and per unit: z, a and delta of a batch and of the probe,
    and z and a of a chunk of images that are evaluated.
    """
    weights = sum(fan_in * fan_out for fan_in, fan_out in pairwise(widths))
    return 4 * (4 * weights + sum(widths[1:]) * (3 * batch_size + 3 * probe + 2 * CHUNK))


def _task(context: HydraContext, config: DictConfig, overrides: Sequence[str], number: int) -> Task:
    """Composes a job. Raises if a value can't be used."""
    from initlab.training.build import build

    job = context.config_loader.load_sweep_config(config, list(overrides))
    with open_dict(job):
        job.hydra.job.id = job.hydra.job.num = number
    run = configs.run_config(job)
    trainer, network, data, statistics, _ = build(OmegaConf.create(run), Path())
    widths = network.widths(normalized_files.read_facts(data.folder)["inputs"])
    size = network.replicas * bytes_per_replica(widths, batch_size=data.batch_size, probe=statistics.probe)
    work = network.replicas * max(trainer.max_epochs or 1, 1) * sum(a * b for a, b in pairwise(widths))
    device = trainer.strategy.root_device.type
    return Task(number, job, configs.run_name(job.hydra), network.replicas, work, size, device)


def _run(context: HydraContext, task_function: TaskFunction, tasks: Sequence[Task], count: int) -> list[JobReturn]:
    """Runs the tasks in `count` processes, the longest first."""
    start = _context()
    epochs: Any = start.SimpleQueue()
    table = JobTable({task.number: task.name for task in tasks}, epochs)
    ordered = sorted(tasks, key=lambda task: -task.work)
    state = Singleton.get_state()
    pool = ProcessPoolExecutor(count, start, _start_worker, (epochs,))
    futures: dict[Future[bytes], int] = {}
    done: dict[int, JobReturn] = {}
    try:
        with _one_thread(), table.shown():
            for task, threads in zip(ordered, threads_per_job(len(tasks), count, _cores()), strict=True):
                payload = cloudpickle.dumps((context, task_function, task.config, state, threads))
                futures[pool.submit(_run_task, payload)] = task.number
            for future in as_completed(futures):
                number = futures[future]
                done[number] = cloudpickle.loads(future.result())
                table.end(number, done[number])
    except BrokenProcessPool as error:
        with concise_errors():
            raise OSError(
                "a worker process was ended, by a signal or for lack of memory, and the sweep with it; the same "
                "command with resume=true goes on"
            ) from error
    finally:
        pool.shutdown(wait=len(done) == len(tasks), cancel_futures=True)
    return [done[task.number] for task in tasks]


def _start_worker(epochs: Any) -> None:
    """Prepares a worker process: it ends with its sweep, and the results of its epochs go into the queue."""
    processes.leave_with_parent(GRACE)
    logging.getLogger("initlab.training.callbacks").addHandler(_EpochHandler(epochs))


class _EpochHandler(QueueHandler):
    """Puts records that carry the results of an epoch into a queue, with the number of the job."""

    def prepare(self, record: logging.LogRecord) -> Any:
        return HydraConfig.get().job.num, record.getMessage(), vars(record).get("epoch"), vars(record).get("latest")

    def enqueue(self, record: Any) -> None:
        if record[-1] is not None:
            self.queue.put(record)  # type: ignore[attr-defined]


def _run_task(payload: bytes) -> bytes:
    """Runs a job in a worker process, as Hydra's own launcher does in this one."""
    import torch

    context, task_function, config, state, threads = cloudpickle.loads(payload)
    setup_globals()
    Singleton.set_state(state)
    torch.set_num_threads(threads)
    HydraConfig.instance().set_config(config)
    try:
        done = run_job(
            hydra_context=context,
            task_function=task_function,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
    except SystemExit as exit:  # a signal; the pool would take it for a result, and give this process the next job
        os._exit(exit.code if isinstance(exit.code, int) else 1)
    return cloudpickle.dumps(done)


def _context() -> BaseContext:
    """Returns how processes start. On macOS the system's libraries don't survive a fork."""
    return multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")


def _cores() -> int:
    import torch

    return torch.get_num_threads()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Within the context, processes that are started compute with one thread until they are told otherwise."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before: Mapping[str, str | None] = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
