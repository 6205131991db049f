"""Validation of a configuration: trainers, numbers of devices and optimisers that can't train these networks."""

from collections.abc import Callable

import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import Logger
from torch import nn
from torch.optim import LBFGS, Adafactor, Optimizer

from initlab.checks import check_choice, check_int, check_type
from initlab.training.shard import Shard

PRECISIONS = "highest", "high", "medium"  # accepted by torch.set_float32_matmul_precision
STRATEGIES = "auto", "ddp"
# Options of Lightning's Trainer that would break a run, or have no effect on it, with any value but these.
ONLY: dict[str, tuple[tuple[object, ...], str]] = {
    "accumulate_grad_batches": ((1,), "each batch is one optimiser step"),
    "barebones": ((False,), "its options are set one by one"),
    "default_root_dir": ((), "a run's folder is hydra.run.dir"),
    "detect_anomaly": ((False,), "gradients are computed without autograd"),
    "fast_dev_run": ((False, 0), "experiment=smoke is a short run"),
    "gradient_clip_algorithm": ((), "gradients are not clipped"),
    "gradient_clip_val": ((0, 0.0), "gradients are not clipped"),
    "limit_test_batches": ((1, 1.0), "all test images are used"),
    "limit_val_batches": ((1, 1.0), "all validation images are used; stats.probe limits those for the statistics"),
    "log_every_n_steps": ((), "stats.every sets when layers are measured"),
    "logger": ((False,), "runs are recorded in MLflow; a logger of your own is one with a _target_"),
    "overfit_batches": ((0, 0.0), "limit_train_batches trains on a part of the images"),
    "precision": ((32, "32", "32-true"), "networks are trained in float32; matmul_precision sets how it is multiplied"),
    "reload_dataloaders_every_n_epochs": ((0,), "images stay on the device"),
    "sync_batchnorm": ((False,), "the networks have no batch normalisation"),
    "val_check_interval": ((1.0,), "validation follows an epoch; check_val_every_n_epoch sets which"),
}


def validate_config(cfg: DictConfig) -> None:
    """Checks the values that no object checks itself. Raises ValueError, naming the key and the value."""
    if OmegaConf.is_dict(cfg.init) and "activation" in cfg.init:
        raise ValueError("init.activation is not known; the activation is a choice of its own: activation=relu")
    if not OmegaConf.is_list(cfg.model.hidden):
        raise ValueError(f"model.hidden is {cfg.model.hidden!r}; expected a list of widths, [100] for one layer")
    if type(cfg.trainer.max_epochs) is not int or cfg.trainer.max_epochs == 0:
        raise ValueError(f"trainer.max_epochs is {cfg.trainer.max_epochs!r}; expected at least 1, or -1 for no end")
    if not OmegaConf.is_dict(cfg.stats):
        raise ValueError(f"stats is {cfg.stats!r}; expected `every` and `probe`")
    if OmegaConf.is_dict(cfg.loss) and "classes" in cfg.loss:
        raise ValueError(f"loss.classes is {cfg.loss.classes!r}; expected no such key: the data have the classes")
    check_choice("matmul_precision", cfg.matmul_precision, PRECISIONS)
    check_choice("trainer.strategy", cfg.trainer.get("strategy", "auto"), STRATEGIES)
    check_int("replicas", cfg.replicas, least=1)
    _validate_options(cfg.trainer)
    devices = str(cfg.trainer.get("devices"))
    if devices.isdecimal() and int(devices) > 1:  # before Lightning makes a list of that length
        Shard(cfg.replicas, devices=int(devices))


def _validate_options(trainer: DictConfig) -> None:
    """Checks the options of Lightning's Trainer that it would check later, or not at all."""
    for name, (allowed, reason) in ONLY.items():
        value = trainer.get(name)
        usual = value is None or OmegaConf.is_config(value)  # a configuration: of a logger
        if not usual and (type(value), value) not in [(type(v), v) for v in allowed]:
            expected = " or ".join(map(repr, allowed)) or "no value"
            raise ValueError(f"trainer.{name} is {value!r}; expected {expected}: {reason}")
    check_int("trainer.check_val_every_n_epoch", trainer.get("check_val_every_n_epoch", 1), least=1)
    steps = trainer.get("max_steps", -1)
    if type(steps) is not int or steps == 0 or steps < -1:
        raise ValueError(f"trainer.max_steps is {steps!r}; expected at least 1, or -1 for no limit")


def validate_trainer(trainer: Trainer, config: DictConfig, *, replicas: int) -> None:
    """Raises ValueError unless the trainer's devices can share a run, and its callbacks and loggers are Lightning's.

    config: the configuration of the trainer.
    """
    check_type("trainer", trainer, Trainer)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        check_type("trainer.callbacks", callback, Callback)
    for logger in trainer.loggers:
        check_type("trainer.logger", logger, Logger)
    if trainer.world_size == 1:
        return
    if config.get("strategy") != "ddp" or trainer.num_nodes > 1:
        raise ValueError(f"trainer.strategy: {trainer.world_size} devices share a run as ddp, and on one machine alone")
    if config.get("use_distributed_sampler", True):
        raise ValueError("trainer.use_distributed_sampler is true; expected false: devices see the same batches")
    Shard(replicas, devices=trainer.world_size)


def validate_optimizer(optimizer: Callable[[list[nn.Parameter]], Optimizer]) -> None:
    """Checks an optimiser on a dummy parameter.

    Raises ValueError if it rejects its settings, if a setting is a number that float32 can't hold, or if it mixes
    replicas.
    """
    for name, value in getattr(optimizer, "keywords", {}).items():
        if isinstance(value, str):
            raise ValueError(f"optimizer.{name} is {value!r}; expected a number")
    try:
        made = optimizer([nn.Parameter(torch.zeros(1, 1, 1))])
    except Exception as error:  # the class that the configuration names may raise anything
        raise ValueError(f"optimizer: {error}") from error
    check_type("optimizer", made, Optimizer)
    for name, value in made.defaults.items():
        if isinstance(value, (int, float)) and not abs(value) <= torch.finfo(torch.float32).max:
            raise ValueError(f"optimizer: {name} is {value!r}; expected a finite number")
    if isinstance(made, LBFGS | Adafactor):
        raise ValueError(f"optimizer {type(made).__name__} mixes the entries of a tensor, so replicas would mix")
