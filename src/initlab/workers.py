"""Threads that train a run's replicas in groups, each computing with one torch thread.

A sum computed by several threads is added up in another order than by one thread, and on some processors it is rounded
differently. Each worker therefore uses one thread, and the groups depend on the number of replicas alone, so a run has
the same bits on any number of cores. torch releases the GIL while it computes, so the threads of one process are
enough.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from math import ceil
from threading import Event
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits

Item = TypeVar("Item")
Result = TypeVar("Result")

# Most replicas in a group. Small groups occupy more cores; large groups need fewer calls to torch per replica.
FEW, MANY = 4, 8


def groups(replicas: int) -> list[slice]:
    """Divides replicas into groups of nearly equal size: at most 4 each, or 8 if there are more than 16 replicas."""
    count = ceil(replicas / (FEW if replicas <= 4 * FEW else MANY))
    bounds = [replicas * number // count for number in range(count + 1)]
    return [slice(start, end) for start, end in pairwise(bounds)]


class Workers:
    """A pool of `count` threads. A single worker runs in the calling thread.

    stopping: set once a call has failed or the calling thread was interrupted; long tasks check it and return early.
    """

    def __init__(self, count: int = 1) -> None:
        self.count = count
        self.stopping = Event()
        self._pool = ThreadPoolExecutor(count, "worker", lambda: torch.set_num_threads(1)) if count > 1 else None

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Returns [function(item) for item in items].

        If a call raises, so does this, once no other call is running; the pool is closed then.
        """
        items = list(items)
        if self._pool is None or len(items) == 1:
            return [function(item) for item in items]
        futures = [self._pool.submit(function, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            self.stopping.set()
            self._pool.shutdown(cancel_futures=True)
            raise

    def close(self) -> None:
        """Ends the threads."""
        if self._pool is not None:
            self._pool.shutdown()


@contextmanager
def one_thread_each(processes: int = 1) -> Iterator[Workers]:
    """Within the context, torch and NumPy's linear algebra use one thread. Yields as many workers as torch had threads.

    That is one worker per core, or OMP_NUM_THREADS workers, divided among `processes` that train side by side.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    workers = Workers(max(threads // processes, 1))
    try:
        with threadpool_limits(1, "blas"):
            yield workers
    finally:
        workers.close()
        torch.set_num_threads(threads)
