"""One run: its objects made from a configuration, trained, tested, and what they show handed to the record."""

import logging
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from initlab import init, lit, loader, mnist, model, origin, ranks, refusals, share, track, workers

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from pytorch_lightning import Trainer


def build(cfg: DictConfig, folder: Path) -> "tuple[Trainer, lit.Network, loader.Images]":
    """The objects of a run, each of which refuses bad values as it is made. folder: where its checkpoints go."""
    if not OmegaConf.is_list(cfg.model.hidden):
        raise ValueError(f"model.hidden is {cfg.model.hidden!r}; expected a list of widths, [100] for one layer")
    if type(cfg.trainer.max_epochs) is not int or cfg.trainer.max_epochs == 0:
        raise ValueError(f"trainer.max_epochs is {cfg.trainer.max_epochs!r}; expected at least 1, or -1 for no end")
    if not OmegaConf.is_dict(cfg.stats):
        raise ValueError(f"stats is {cfg.stats!r}; expected `every` and `probe`")
    if cfg.matmul_precision not in lit.PRECISIONS:
        raise ValueError(f"matmul_precision is {cfg.matmul_precision!r}; expected one of {', '.join(lit.PRECISIONS)}")
    devices = str(cfg.trainer.get("devices"))
    if devices.isdecimal() and int(devices) > 1:  # before Lightning makes a list of as many
        init.check([], replicas=cfg.replicas, seed=cfg.seed)
        share.Shard(cfg.replicas, devices=int(devices))
    network = lit.Network(
        hidden=list(cfg.model.hidden),
        replicas=cfg.replicas,
        seed=cfg.seed,
        scheme=instantiate(cfg.init.weights),
        activation=instantiate(cfg.init.activation),
        loss=instantiate(cfg.loss),
        optimizer=instantiate(cfg.optimizer),
        every=cfg.stats.every,
        probe=cfg.stats.probe,
    )
    trainer = instantiate(cfg.trainer, default_root_dir=folder)
    images = loader.Images(cfg.data.folder, batch_size=cfg.data.batch_size, seed=cfg.seed)
    refusals.refuse_trainer(trainer, replicas=cfg.replicas)
    images.prepare_data()
    facts = mnist.read_facts(images.folder)
    if 1 < network.loss.outputs < facts["classes"]:
        raise ValueError(f"loss.outputs is {network.loss.outputs}; the data has {facts['classes']} classes")
    pinned = mnist.pinned(cfg.data.get("pin"))
    if pinned not in (None, facts["raw"]):
        raise ValueError(
            f"{images.folder} was made of data {facts['raw']}; {cfg.data.pin} pins {pinned}: dvc repro normalize"
        )
    return trainer, network, images


def train(config: Mapping[str, Any], run: track.Run) -> float:
    """Trains and tests what `config` describes, from the last checkpoint in the run's folder if there is one.

    Returns the validation accuracy, mean over replicas. Raises ValueError for a value that can't be used.
    """
    if run.finished:
        log.info(f"run {run.run_id} has finished before: nothing to do")
        return run.journal.last("val/accuracy")
    trainer, network, images = build(OmegaConf.create(dict(config)), run.folder)
    facts = mnist.read_facts(images.folder)
    data = {"name": images.folder.name, "source": config["data"].get("pin") or str(images.folder), "facts": facts}
    run.begin(origin.here(facts, trainer.strategy.root_device, trainer.world_size), data)
    network.record = run.log
    last = run.folder / track.LAST
    if last.exists() and not run.journal.entries:
        raise ValueError(
            f"{run.folder} has a checkpoint, but its metrics.jsonl is gone: start a new run, without resume"
        )
    with ranks.others(run.folder, trainer.world_size) if refusals.is_shared(trainer) else nullcontext():
        _fit(trainer, network, images, last, config["matmul_precision"])
    run.tag(**{"weights.sha256": network.digest()})
    run.evidence(network.theory(), network.tensors())
    saved = model.save(
        run.folder / track.MODEL,
        list(network.weights),
        list(network.biases),
        activation=network.activation,
        loss=network.loss,
        pixels=mnist.pixel_values(facts["mean"], facts["std"], facts["scale"]),
        example=images.splits["validation"][0][:2],
    )
    if not saved:
        log.info("no MLflow model is kept: it knows the losses of initlab.mlp, and activations with plain constants")
    return run.journal.last("val/accuracy")


def follow(folder: Path) -> None:
    """Trains what the run in `folder` is, as another of its devices: `train`, in another process, records it."""
    config = OmegaConf.load(folder / track.CONFIG)
    assert isinstance(config, DictConfig)
    _fit(*build(config, folder), folder / track.LAST, config.matmul_precision)


def _fit(trainer: "Trainer", network: lit.Network, images: loader.Images, last: Path, precision: str) -> None:
    """Trains, from the last checkpoint if there is one, and tests."""
    with lit.matmul_precision(precision), workers.one_thread_each(trainer.world_size) as network.workers:
        trainer.fit(network, images, ckpt_path=last if last.exists() else None, weights_only=True)
        trainer.test(network, images, verbose=False)
