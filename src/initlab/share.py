"""What one device does of a run that several share: some of the replicas or, where they don't divide, of each batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, distributed


@dataclass(frozen=True)
class Share:
    """The part of device `rank` among `devices`; R = `replicas`.

    Replicas never mix, so where `devices` divides R each trains R / devices of them, and nothing is exchanged but what
    was measured, once an epoch. Elsewhere (one replica on two devices, say) each trains all of them on its part of each
    batch, and gradients are summed over devices before every step: Li et al. (2020), "PyTorch Distributed".
    """

    replicas: int
    rank: int = 0
    devices: int = 1

    @property
    def by_replica(self) -> bool:
        return self.replicas % self.devices == 0

    def mine(self, tensor: Tensor) -> Tensor:
        """This device's replicas of a tensor (R, ...): a view."""
        if self.devices == 1 or not self.by_replica:
            return tensor  # itself: a view would cost
        return tensor.chunk(self.devices)[self.rank]

    def all(self, mine: Tensor) -> Tensor:
        """The tensor (R, ...) whose parts `mine` the devices have. Every device has to ask."""
        if self.devices == 1 or not self.by_replica:
            return mine
        parts = [torch.empty_like(mine) for _ in range(self.devices)]
        distributed.all_gather(parts, mine.contiguous())
        return torch.cat(parts)

    def over_replicas(self, mine: Tensor) -> Tensor:
        """The sum over all replicas, in place, of what is a sum over those of this device. Every device has to ask."""
        if self.devices > 1 and self.by_replica:
            distributed.all_reduce(mine)
        return mine

    def images(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """This device's part of a batch x (E, B), y (B,): all of it, where the replicas are divided."""
        if self.by_replica:
            return x, y
        return x.tensor_split(self.devices, 1)[self.rank], y.tensor_split(self.devices)[self.rank]

    def mean(self, mine: Sequence[Tensor], part: float) -> Sequence[Tensor]:
        """Means over the whole batch, of means over this device's `part` of it. Every device has to ask."""
        if self.by_replica:
            return mine
        flat = torch.cat([tensor.flatten() for tensor in mine]) * part  # one exchange, not one a tensor
        distributed.all_reduce(flat)
        split = flat.split([tensor.numel() for tensor in mine])
        return [whole.view_as(tensor) for whole, tensor in zip(split, mine, strict=True)]
