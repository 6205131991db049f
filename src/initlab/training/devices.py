"""The device of a run: a GPU, if the batch of networks is large enough to be worth it.

A step on a GPU takes at least as long as Python needs to launch its kernels. A CPU needs less time for a step of a few
small networks.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import NamedTuple

import torch
from pytorch_lightning.accelerators import CUDAAccelerator, MPSAccelerator

# Seconds to launch a kernel: 5 to 25 us are usual for CUDA; for MPS, see https://github.com/pytorch/pytorch/issues/148219.
LAUNCH = {"cuda": 10e-6, "mps": 20e-6}
KERNELS_PER_LAYER, KERNELS_PER_STEP = 7, 18  # of mlp.sgd_step, per hidden layer and besides
# Floating-point operations per second: of one core, as measured in docs/performance.md; and of the matrix unit that the
# cores of an Apple chip share (https://arxiv.org/abs/2606.25426).
CORE_SPEED, APPLE_SPEED = 60e9, 600e9


class Choice(NamedTuple):
    """accelerator: for Lightning's Trainer.  reason: why, in a few words; empty if there is nothing to choose from."""

    accelerator: str
    reason: str = ""


def choose(gpu: str | None, widths: Sequence[int], *, replicas: int, batch_size: int, cores: int) -> Choice:
    """Chooses between the CPU and a GPU, by the time that a step takes at least.

    gpu: `cuda` or `mps`; None if there is none.  widths: [inputs, hidden..., outputs].
    A step takes 6 floating-point operations per weight and image: 2 forward, 4 backward.
    """
    if gpu is None:
        return Choice("cpu")
    weights = replicas * sum(fan_in * fan_out for fan_in, fan_out in pairwise(widths))
    on_cpu = 6 * weights * batch_size / (APPLE_SPEED if gpu == "mps" else cores * CORE_SPEED)
    on_gpu = LAUNCH[gpu] * (KERNELS_PER_STEP + KERNELS_PER_LAYER * (len(widths) - 2))
    estimate = f"a step takes about {1e3 * on_cpu:.2g} ms on the CPU, and {1e3 * on_gpu:.2g} ms to launch on the GPU"
    if on_cpu < on_gpu:
        return Choice("cpu", f"{estimate}; trainer=gpu uses the GPU")
    return Choice(gpu, f"{estimate}; trainer=cpu uses the CPU")


def available_gpu() -> str | None:
    """Returns the kind of GPU that this machine has, `cuda` or `mps`, or None."""
    if CUDAAccelerator.is_available():
        return "cuda"
    return "mps" if MPSAccelerator.is_available() else None


@contextmanager
def memory_errors(device: torch.device, replicas: int) -> Iterator[None]:
    """Within the context, turns the error of a device whose memory is full into a ValueError that says what to do."""
    try:
        yield
    except RuntimeError as error:  # on CUDA torch.OutOfMemoryError, on MPS a plain RuntimeError
        if "out of memory" not in str(error):
            raise
        free = ""
        if device.type == "cuda":
            free = " ({:.1f} of {:.1f} GB are free)".format(*(size / 1e9 for size in torch.cuda.mem_get_info(device)))
        raise ValueError(
            f"{device} has no room for {replicas} networks{free}; use another GPU, trainer.devices=[1], the CPU, "
            "trainer=cpu, or fewer replicas"
        ) from error
