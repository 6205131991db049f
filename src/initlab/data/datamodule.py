"""Lightning's data module: images that stay on the device, served in blocks of whole batches."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from initlab.checks import check_int
from initlab.data import normalized_files
from initlab.random_streams import stream

# The images are in memory already: workers would only copy them.
warnings.filterwarnings("ignore", ".*does not have many workers", category=UserWarning)


class DataModule(LightningDataModule):
    """The normalised images, kept on the device for the whole run and served in whole batches.

    folder: output of the normalize stage.  batch_size: images per optimiser step.
    block: optimiser steps per `training_step`. Lightning's overhead is paid once per block instead of once per step.
    seed: of the order of the training images, which is a function of (seed, epoch) and the same for every replica.
    limit: optimiser steps per epoch, or the share of all steps, 1.0 at most.
    Raises ValueError for a value out of range or of the wrong type.
    """

    def __init__(self, folder: str | Path, *, batch_size: int, seed: int, block: int = 128, limit: float = 1.0) -> None:
        super().__init__()
        check_int("batch_size", batch_size, least=1)
        check_int("block", block, least=1)
        if type(limit) is int:
            check_int("limit_train_batches", limit, least=1)
        elif not isinstance(limit, float) or not 0 < limit <= 1:
            raise ValueError(f"limit_train_batches is {limit!r}; expected a number of steps, or a share of up to 1.0")
        if not isinstance(folder, str | Path):
            raise ValueError(f"data.folder is {folder!r}; expected the name of a folder")
        self.folder, self.batch_size, self.seed, self.block, self.limit = Path(folder), batch_size, seed, block, limit
        self.splits: dict[str, tuple[Tensor, Tensor]] = {}  # images (N, 784), labels (N,)

    def prepare_data(self) -> None:
        """Checks the files. Raises DataError if one is missing or damaged, ValueError if there are too few images."""
        normalized_files.verify(self.folder)
        images = normalized_files.read_facts(self.folder)["splits"]["train"]["images"]
        if self.batch_size > images:
            raise ValueError(f"batch_size is {self.batch_size}; there are {images:,} training images")

    def setup(self, stage: str) -> None:
        """Loads all splits to the trainer's device, on the first call."""
        if not self.splits:
            device = self.trainer.strategy.root_device if self.trainer is not None else torch.device("cpu")
            for name in normalized_files.SPLITS:
                images, labels = normalized_files.load(self.folder, name)
                self.splits[name] = images.to(device), labels.to(device)

    @property
    def inputs(self) -> int:
        """Pixels per image."""
        return self.splits["train"][0].shape[1]

    @property
    def steps(self) -> int:
        """Optimiser steps per epoch."""
        whole = len(self.splits["train"][0]) // self.batch_size
        return min(self.limit, whole) if type(self.limit) is int else max(int(self.limit * whole), 1)

    def train_dataloader(self) -> DataLoader:
        """Returns a loader of blocks, in an order that depends on the epoch."""
        images, labels = self.splits["train"]
        order = EpochOrder(
            len(images), self.batch_size, self.block, steps=self.steps, seed=self.seed, device=images.device
        )
        if self.trainer is not None:  # when resuming, Lightning asks for the first rows before it calls set_epoch
            order.set_epoch(self.trainer.fit_loop.epoch_progress.current.processed)  # type: ignore[attr-defined]
        return DataLoader(Blocks(images, labels, self.batch_size), batch_size=None, sampler=order)

    def val_dataloader(self) -> DataLoader:
        """Returns a loader of one batch: the chunks of all validation images."""
        return self._chunks("validation")

    def test_dataloader(self) -> DataLoader:
        """Returns a loader of one batch: the chunks of all test images."""
        return self._chunks("test")

    def _chunks(self, name: str, size: int = 500) -> DataLoader:
        """Returns a loader of one batch: all chunks x (784, B), y (B,), in order. Chunks limit the memory in use."""
        images, labels = self.splits[name]
        chunks = [(x.mT, y) for x, y in zip(images.split(size), labels.split(size), strict=True)]
        return DataLoader([chunks], batch_size=None)  # type: ignore[arg-type]


class EpochOrder(Sampler[Tensor]):
    """Row numbers in blocks of whole batches, shuffled anew each epoch. Lightning calls `set_epoch`.

    Rows that do not fill a batch are left out of the epoch: a small last batch would be a noisier step.
    steps: batches of an epoch, all by default.
    """

    def __init__(
        self, rows: int, batch_size: int, block: int, *, seed: int, device: torch.device, steps: int | None = None
    ) -> None:
        self.rows, self.size = rows, batch_size * block
        self.used = (rows // batch_size if steps is None else steps) * batch_size
        self.seed, self.device, self.epoch = seed, device, 0

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch whose order comes next."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Tensor]:
        order = stream(self.seed, "epoch", self.epoch).permutation(self.rows)[: self.used]
        return iter(torch.from_numpy(order).to(self.device).split(self.size))

    def __len__(self) -> int:
        return -(-self.used // self.size)


class Block:
    """The batches x (784, B), y (B,) of some rows. Each is gathered just before its step, so that it is in the cache.

    Several threads may iterate over it at once.
    """

    def __init__(self, images: Tensor, labels: Tensor, rows: Tensor, batch_size: int) -> None:
        self.images, self.labels, self.batches = images, labels, rows.split(batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in self.batches:
            yield self.images.index_select(0, rows).mT, self.labels.index_select(0, rows)

    def __len__(self) -> int:
        return len(self.batches)


class Blocks(Dataset):
    """Data set that maps row numbers to the block of their batches."""

    def __init__(self, images: Tensor, labels: Tensor, batch_size: int) -> None:
        self.images, self.labels, self.batch_size = images, labels, batch_size

    def __getitem__(self, rows: Tensor) -> Block:
        return Block(self.images, self.labels, rows, self.batch_size)
