"""Workers: threads that train a run's replicas in groups, each computing with one thread of torch's.

A sum made by several threads is made in another order than by one, and on some processors it rounds differently. So
each worker uses one thread, and the groups depend on the number of replicas alone: a run has the same bits on one core
and on ten. torch lets go of Python's lock while it computes, so threads of one process are enough.
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

# Replicas in a group: small groups occupy more cores, large ones need fewer calls of torch's per replica.
FEW, MANY = 4, 8


def groups(replicas: int) -> list[slice]:
    """Divides replicas into groups as equal as can be, of at most 4 each, or 8 if there are more than 16 replicas."""
    count = ceil(replicas / (FEW if replicas <= 4 * FEW else MANY))
    bounds = [replicas * number // count for number in range(count + 1)]
    return [slice(start, end) for start, end in pairwise(bounds)]


class Workers:
    """`count` threads that share out what they are given. One alone works in the thread that asks.

    stopping: set when the thread that asks has been interrupted; a long task looks at it and returns early.
    """

    def __init__(self, count: int = 1) -> None:
        self.count = count
        self.stopping = Event()
        self._pool = ThreadPoolExecutor(count, "worker", lambda: torch.set_num_threads(1)) if count > 1 else None

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """[function(item) for item in items]. Raises what the first of them raises, when none is still running."""
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
    """While it lasts, torch and numpy's linear algebra compute with one thread; yields as many workers as they had.

    That is a worker per core, or OMP_NUM_THREADS of them, divided among `processes` that train side by side.
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
