"""Builds the objects of a run from its configuration."""

from pathlib import Path
from typing import NamedTuple

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning import Trainer

from initlab import resolvers  # noqa: F401 (for configurations that are not resolved yet)
from initlab.data import dvc_pin, normalized_files
from initlab.data.datamodule import DataModule
from initlab.training import devices
from initlab.training.callbacks import LayerStatistics
from initlab.training.lightning_module import Network
from initlab.training.validation import validate_config, validate_trainer


class Components(NamedTuple):
    """The objects of a run. `statistics` is not yet among the trainer's callbacks.

    reason: why the trainer has its device; empty if there was nothing to choose from.
    """

    trainer: Trainer
    network: Network
    data: DataModule
    statistics: LayerStatistics
    reason: str


def build(cfg: DictConfig, folder: Path) -> Components:
    """Builds the objects of a run, each of which checks its own values.

    folder: where checkpoints go.
    Raises ValueError, or what Hydra and Lightning raise, for a value that can't be used or data of another version than
    the pinned one; DataError if the data are missing or damaged.
    """
    validate_config(cfg)
    limit = cfg.trainer.get("limit_train_batches", 1.0)  # of optimiser steps: Lightning would count blocks of them
    data = DataModule(cfg.data.folder, batch_size=cfg.data.batch_size, seed=cfg.seed, limit=limit)
    facts = normalized_files.read_facts(data.folder)
    network = Network(
        hidden=list(cfg.model.hidden),
        replicas=cfg.replicas,
        seed=cfg.seed,
        scheme=instantiate(cfg.init.weights),
        activation=instantiate(cfg.activation),
        loss=instantiate(cfg.loss, classes=facts["classes"]),
        optimizer=instantiate(cfg.optimizer),
    )
    statistics = LayerStatistics(every=cfg.stats.every, probe=cfg.stats.probe)
    choice = devices.Choice(cfg.trainer.get("accelerator", "auto"))
    if choice.accelerator == "auto" and cfg.trainer.get("devices") == 1:
        sizes = {"replicas": cfg.replicas, "batch_size": data.batch_size, "cores": torch.get_num_threads()}
        choice = devices.choose(devices.available_gpu(), network.widths(facts["inputs"]), **sizes)
    trainer = instantiate(cfg.trainer, accelerator=choice.accelerator, limit_train_batches=1.0, default_root_dir=folder)
    validate_trainer(trainer, cfg.trainer, replicas=cfg.replicas)
    data.prepare_data()
    pinned = dvc_pin.pinned_hash(cfg.data.get("pin"))
    if pinned not in (None, facts["raw"]):
        raise ValueError(
            f"{data.folder} was made of data {facts['raw']}; {cfg.data.pin} pins {pinned}: dvc repro normalize"
        )
    return Components(trainer, network, data, statistics, choice.reason)
