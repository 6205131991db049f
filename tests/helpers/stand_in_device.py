"""A device that is not there: tensors that behave like those of Apple's MPS, computed on the CPU.

Its tensors refuse float64, meet no tensors of the CPU, are not seen by NumPy, and their maxima ignore NaN, as on that
device (pytorch #122602, #130295). Kernels that raise on CUDA under deterministic algorithms raise here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from pytorch_lightning.accelerators import Accelerator
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from initlab.training.build import Components

NAME = "stand_in"
IGNORE_NAN = ("aten.amax", "aten.max", "aten.argmax", "aten.maximum", "aten.clamp", "aten.clamp_min", "aten.clamp_max")
NOT_DETERMINISTIC = ("aten.histc",)


class Held(torch.Tensor):
    """A tensor of the stand-in device. held: what it holds, on the CPU."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "Held":
        if held.dtype == torch.float64:
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."
            )
        made = torch.Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype, device=NAME
        )
        made.held = held
        return made

    def __repr__(self) -> str:
        return f"Held({self.held})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.held.__reduce_ex__(protocol)  # as read back with map_location="cpu"

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert stand_in:0 device type tensor to numpy. Use Tensor.cpu() first.")

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(function, args, kwargs or {})


class _Device(TorchDispatchMode):
    """While it is on, tensors can be made on the device, or moved to it."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(function, args, kwargs or {})


class _FromNumbers(TorchFunctionMode):
    """torch makes tensors of numbers without asking a dispatch mode: they are made on the CPU here, and moved."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        device = kwargs.get("device")
        if function in (torch.tensor, torch.as_tensor) and device is not None and torch.device(device).type == NAME:
            return function(*args, **kwargs | {"device": "cpu"}).to(device)
        return function(*args, **kwargs)


def _call(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = str(function).removesuffix(".default")
    tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)]
    here = any(isinstance(tensor, Held) for tensor in tensors)
    to = kwargs.get("device")
    on_device = here if to is None else torch.device(to).type == NAME
    moves = name in ("aten._to_copy", "aten.copy_")
    if here and not moves and any(not isinstance(t, Held) and t.dim() for t in tensors):
        raise RuntimeError(f"Expected all tensors to be on the same device, but found stand_in:0 and cpu: {name}")
    if here and name.startswith(NOT_DETERMINISTIC) and torch.are_deterministic_algorithms_enabled():
        raise RuntimeError(f"{name} does not have a deterministic implementation")
    unheld = tree_map(lambda value: value.held if isinstance(value, Held) else value, (args, kwargs))
    if here and any(name.startswith(f"{kernel}.") or name == kernel for kernel in IGNORE_NAN):
        unheld = tree_map(_without_nan, unheld)
    if to is not None:
        unheld[1]["device"] = torch.device("cpu")
    found = function(*unheld[0], **unheld[1])
    if name.endswith("_") or "out" in kwargs:  # in place: the same object comes back
        return kwargs.get("out", args[0])
    if name == "aten._local_scalar_dense" or not on_device:
        return found
    return tree_map(lambda value: Held(value) if isinstance(value, torch.Tensor) else value, found)


def _without_nan(value: Any) -> Any:
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return value
    return torch.where(value.isnan(), -torch.inf, value)


class StandInAccelerator(Accelerator):
    """Lightning's side of the device."""

    def setup_device(self, device: torch.device) -> None: ...
    def teardown(self) -> None: ...
    def get_device_stats(self, device: Any) -> dict[str, Any]:
        return {}

    @staticmethod
    def parse_devices(devices: Any) -> Any:
        return devices

    @staticmethod
    def get_parallel_devices(devices: Any) -> Any:
        return [torch.device(NAME, 0)]

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return "stand-in"


def moved(parts: Components) -> Components:
    """The objects of a run, whose trainer runs on the device."""
    strategy = parts.trainer.strategy
    assert isinstance(strategy, SingleDeviceStrategy)
    strategy._root_device = torch.device(NAME, 0)
    strategy._accelerator = StandInAccelerator()
    return parts


@contextmanager
def stand_in_device() -> Iterator[None]:
    """Within the context, the device exists."""
    _register()
    with _FromNumbers(), _Device():
        yield


@cache
def _register() -> None:
    """Tells torch the device's name, once per process."""
    _setup_privateuseone_for_python_backend(NAME)
