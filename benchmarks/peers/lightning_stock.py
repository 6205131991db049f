"""Lightning as in its templates: torchvision's data set and transforms, DataLoader, metrics, progress bar."""

import gzip
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, random_split
from torchmetrics import Accuracy
from torchvision import transforms
from torchvision.datasets import MNIST

from benchmarks.peers import BATCH, CLASSES, HIDDEN, LEARNING_RATE, Clock
from benchmarks.peers.lightning_tensors import Ticks


class MNISTDataModule(LightningDataModule):
    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = folder
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])

    def setup(self, stage: str) -> None:
        full = MNIST(self.folder, train=True, transform=self.transform)
        self.train, self.val = random_split(full, [50_000, 10_000], generator=torch.Generator().manual_seed(0))

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train, batch_size=BATCH, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, batch_size=BATCH)


class Classifier(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Flatten(), nn.Linear(784, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))
        self.accuracy = Accuracy("multiclass", num_classes=CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        logits = self(x)
        self.accuracy(logits, y)
        self.log("val_loss", F.cross_entropy(logits, y), prog_bar=True)
        self.log("val_acc", self.accuracy, prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=LEARNING_RATE)


def train(epochs: int, replicas: int, clock: Clock) -> None:
    with TemporaryDirectory() as folder:
        raw = Path(folder, "MNIST", "raw")
        raw.mkdir(parents=True)
        for file in Path("mirror").glob("*.gz"):
            (raw / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
        trainer = Trainer(max_epochs=epochs, accelerator="cpu", default_root_dir=folder, callbacks=[Ticks(clock)])
        trainer.fit(Classifier(), MNISTDataModule(folder))
