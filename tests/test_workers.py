"""Workers: one thread of torch's each, whatever the machine has, and groups that depend on the replicas alone."""

import threading
from math import ceil

import pytest
import torch
from threadpoolctl import threadpool_info

from initlab.workers import Workers, groups, one_thread_each


@pytest.mark.parametrize("replicas", [1, 2, 4, 5, 8, 9, 16, 17, 32, 1000])
def test_groups_are_whole_and_as_equal_as_can_be(replicas: int) -> None:
    parts = groups(replicas)
    assert [r for part in parts for r in range(part.start, part.stop)] == list(range(replicas))
    sizes = {part.stop - part.start for part in parts}
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= (4 if replicas <= 16 else 8)
    assert len(parts) == ceil(replicas / (4 if replicas <= 16 else 8))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_every_worker_computes_with_one_thread(threads: int) -> None:
    """torch's matrices, and numpy's; a worker for each thread that there was before, which is there again after."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with one_thread_each() as workers:
            assert workers.count == threads
            assert set(workers.map(lambda _: torch.get_num_threads(), range(10))) == {1}
            assert torch.get_num_threads() == 1
            assert {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"} == {1}
        assert torch.get_num_threads() == threads
        with one_thread_each(processes=2) as workers:
            assert workers.count == max(threads // 2, 1)
    finally:
        torch.set_num_threads(before)


def test_what_a_worker_raises_is_raised_when_none_is_running() -> None:
    """A long task looks at `stopping` and returns early."""
    workers, begun, ended = Workers(2), threading.Barrier(2), threading.Event()

    def work(item: str) -> None:
        begun.wait(10)
        if item == "fails":
            raise ValueError(item)
        assert workers.stopping.wait(10)
        ended.set()

    with pytest.raises(ValueError, match="fails"):
        workers.map(work, ["fails", "goes on"])
    assert ended.is_set()
