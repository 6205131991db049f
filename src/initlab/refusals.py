"""What can't train these networks, refused by name: trainers, numbers of devices, optimisers."""

from collections.abc import Callable

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import Logger
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher
from torch import nn
from torch.optim import LBFGS, Adafactor, Optimizer

from initlab.share import Shard


def refuse_trainer(trainer: Trainer, *, replicas: int) -> None:
    """Raises ValueError unless the trainer's devices can share a run, and its callbacks and loggers are Lightning's."""
    refuse_other("trainer", trainer, Trainer)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        refuse_other("trainer.callbacks", callback, Callback)
    for logger in trainer.loggers:
        refuse_other("trainer.logger", logger, Logger)
    if trainer.world_size == 1:
        return
    if not is_shared(trainer) or trainer.num_nodes > 1:
        raise ValueError(f"trainer.strategy: {trainer.world_size} devices share a run as ddp, and on one machine alone")
    if trainer._accelerator_connector.use_distributed_sampler:
        raise ValueError("trainer.use_distributed_sampler is true; expected false: devices see the same batches")
    Shard(replicas, devices=trainer.world_size)


def is_shared(trainer: Trainer) -> bool:
    """Whether further processes train with this one: Lightning's ddp."""
    strategy = trainer.strategy
    return isinstance(strategy, DDPStrategy) and isinstance(strategy.launcher, _SubprocessScriptLauncher)


def refuse_optimizer(optimizer: Callable[[list[nn.Parameter]], Optimizer]) -> None:
    """Tries the optimiser on a stand-in, so that its own checks run first.

    Raises ValueError if it refuses its settings, if one is a number that float32 can't hold, or if it mixes replicas.
    """
    for name, value in getattr(optimizer, "keywords", {}).items():
        if isinstance(value, str):
            raise ValueError(f"optimizer.{name} is {value!r}; expected a number")
    try:
        made = optimizer([nn.Parameter(torch.zeros(1, 1, 1))])
    except Exception as error:  # whatever was named in the configuration raises whatever it likes
        raise ValueError(f"optimizer: {error}") from error
    refuse_other("optimizer", made, Optimizer)
    for name, value in made.defaults.items():
        if isinstance(value, (int, float)) and not abs(value) <= torch.finfo(torch.float32).max:
            raise ValueError(f"optimizer: {name} is {value!r}; expected a finite number")
    if isinstance(made, LBFGS | Adafactor):
        raise ValueError(f"optimizer {type(made).__name__} mixes the entries of a tensor, so replicas would mix")


def refuse_other(name: str, value: object, kind: type) -> None:
    """Raises ValueError unless the value is of this kind."""
    if not isinstance(value, kind):
        raise ValueError(f"{name} is {value!r}; expected {kind.__module__}.{kind.__qualname__}")
