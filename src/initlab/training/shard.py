"""The shard of a run's replicas that one of several devices trains."""

from dataclasses import dataclass

import torch
from torch import Tensor, distributed


@dataclass(frozen=True)
class Shard:
    """The replicas of device `rank` among `devices`, R / devices of them; R = `replicas`.

    Replicas never mix, so nothing is exchanged but what was measured, once an epoch.
    Raises ValueError if the replicas can't be divided evenly.
    """

    replicas: int
    rank: int = 0
    devices: int = 1

    def __post_init__(self) -> None:
        if self.replicas % self.devices:
            fitting = [str(n) for n in range(1, self.replicas + 1) if self.replicas % n == 0]
            raise ValueError(
                f"trainer.devices is {self.devices}; expected a number that divides {self.replicas} replicas: "
                f"{', '.join(fitting)}"
            )

    def local(self, tensor: Tensor) -> Tensor:
        """This device's replicas of a tensor (R, ...): a view."""
        return tensor if self.devices == 1 else tensor.chunk(self.devices)[self.rank]

    def all_gather(self, local: Tensor) -> Tensor:
        """The tensor (R, ...) of which each device has its replicas. All devices have to call it."""
        if self.devices == 1:
            return local
        parts = [torch.empty_like(local) for _ in range(self.devices)]
        distributed.all_gather(parts, local.contiguous())
        return torch.cat(parts)

    def all_reduce(self, local: Tensor) -> Tensor:
        """The sum over devices, in place. All devices have to call it."""
        if self.devices > 1:
            distributed.all_reduce(local)
        return local
