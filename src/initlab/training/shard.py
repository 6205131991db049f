"""The shard of a run's replicas that one of several devices trains."""

from dataclasses import dataclass

import torch
from torch import Tensor, distributed


@dataclass(frozen=True)
class Shard:
    """The replicas that device `rank` of `devices` trains: R / devices of R = `replicas`.

    Replicas never mix, so training itself exchanges nothing. Exchanged are measurements, once per epoch and after
    testing; histograms, after each block in which they were measured; and all replicas, for each checkpoint and at the
    end.
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
        """Returns this device's replicas (R / devices, ...) of a tensor (R, ...), as a view."""
        return tensor if self.devices == 1 else tensor.chunk(self.devices)[self.rank]

    def all_gather(self, local: Tensor) -> Tensor:
        """Returns the tensor (R, ...), given each device's part of it, `local`. All devices have to call it."""
        if self.devices == 1:
            return local
        parts = [torch.empty_like(local) for _ in range(self.devices)]
        distributed.all_gather(parts, local.contiguous())
        return torch.cat(parts)

    def all_reduce(self, local: Tensor) -> Tensor:
        """Sums a tensor over devices, in place. All devices have to call it."""
        if self.devices > 1:
            distributed.all_reduce(local)
        return local
