"""The machine's limit: multiply-adds per second of torch's matrix product, float32, square matrices of 256 to 2048."""

import time

import torch

from benchmarks.peers import Clock

SIZES = 256, 512, 1024, 2048


def train(epochs: int, replicas: int, clock: Clock) -> None:
    """An epoch is some products of each size. Its `seconds` are those of one multiply-add, at the best size."""
    for _ in range(epochs):
        clock.add(min(_seconds(size) for size in SIZES), 1.0)


def _seconds(size: int, for_seconds: float = 0.25) -> float:
    a, b, c = torch.randn(size, size), torch.randn(size, size), torch.empty(size, size)
    torch.mm(a, b, out=c)
    products, begun = 0, time.perf_counter()
    while time.perf_counter() < begun + for_seconds:
        torch.mm(a, b, out=c)
        products += 1
    return (time.perf_counter() - begun) / products / size**3
