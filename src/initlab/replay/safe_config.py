"""Reads a recorded configuration safely: it comes from a store that others can write to.

Whatever it contains, a replay imports and calls only what is listed here.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import yaml

from initlab.nn import activations, init, losses

OPTIMIZERS = "SGD Adam AdamW NAdam RAdam Adagrad Adadelta Adamax RMSprop"


def _own(module: ModuleType) -> set[str]:
    """Returns the names of the public functions and classes that a module of ours defines."""
    return {
        f"{module.__name__}.{name}"
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__ and callable(value)
    }


TARGETS = {
    *_own(init),
    *_own(activations),
    *_own(losses),
    "initlab.training.checkpoints.AtomicCheckpointIO",
    "initlab.training.callbacks.ProgressBar",
    "pytorch_lightning.Trainer",
    "pytorch_lightning.callbacks.ModelCheckpoint",
    "pytorch_lightning.plugins.environments.LightningEnvironment",
    *(f"torch.optim.{name}" for name in OPTIMIZERS.split()),
}
# Trainer options that affect the results. Some of the others import what they name.
TRAINER = {
    *(
        "_target_",
        "accelerator",
        "devices",
        "strategy",
        "max_epochs",
        "min_epochs",
        "max_steps",
        "min_steps",
        "max_time",
    ),
    *("limit_train_batches", "limit_val_batches", "limit_test_batches", "check_val_every_n_epoch", "precision"),
    *("num_sanity_val_steps", "deterministic", "benchmark", "logger", "enable_progress_bar", "enable_model_summary"),
    *("enable_checkpointing", "callbacks", "plugins", "use_distributed_sampler"),
}
CHOICES: dict[str, list] = {
    "accelerator": ["auto", "cpu", "gpu", "cuda", "mps"],
    "strategy": ["auto", "ddp"],
    "logger": [False],
}
CHECKPOINT = {
    *("_target_", "filename", "monitor", "mode", "save_last", "save_top_k", "save_weights_only", "every_n_epochs"),
    *("save_on_train_epoch_end", "enable_version_counter", "verbose"),
}


class ReplayError(ValueError):
    """A recorded run can't be run again, or must not be."""


def read_config(text: str) -> dict[str, Any]:
    """Returns a recorded configuration as plain data.

    Raises ReplayError, naming the key, for anything that would do more than build the objects of a run.
    """
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise ReplayError("config.yaml: aliases are not read")
        config = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ReplayError(f"config.yaml can't be read: {str(error).splitlines()[0]}") from error
    if not isinstance(config, dict):
        raise ReplayError("config.yaml holds no configuration")
    _check_node(config, "")
    trainer = config.get("trainer", {})
    if not isinstance(trainer, dict):
        raise ReplayError("trainer holds no configuration")
    parts = [(trainer, TRAINER), *((part, CHECKPOINT) for part in _parts(trainer, "callbacks"))]
    for part, known in [*parts, *((part, {"_target_"}) for part in _parts(trainer, "plugins"))]:
        for key in part:
            if key not in known:
                raise ReplayError(f"trainer: {key} is not something that a replay takes from a record")
    for key in CHOICES.keys() & trainer.keys():
        if trainer[key] not in CHOICES[key]:
            raise ReplayError(f"trainer: {key} is {trainer[key]!r}, which a replay does not take from a record")
    return config


def _parts(trainer: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    parts = trainer.get(key) or []
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise ReplayError(f"trainer.{key} is {parts!r}; expected a list of configurations")
    return parts


def _check_node(node: object, path: str) -> None:
    """Checks a configuration recursively. Raises ReplayError for anything that is not allowed in it."""
    if isinstance(node, dict):
        for key, value in node.items():
            where = f"{path}{key}"
            if not isinstance(key, str) or "${" in key:
                raise ReplayError(f"{where}: keys are words")
            if key == "_target_" and (not isinstance(value, str) or value not in TARGETS):
                raise ReplayError(f"{where} is {value!r}, which no replay may import or call")
            if key.startswith("_") and key not in ("_target_", "_partial_"):
                raise ReplayError(f"{where} is not something that a replay takes from a record")
            if key == "filename" and (not isinstance(value, str) or not value.isidentifier()):
                raise ReplayError(f"{where} is {value!r}; a replay writes to its own folder")
            _check_node(value, f"{where}.")
    elif isinstance(node, list):
        for number, value in enumerate(node):
            _check_node(value, f"{path}{number}.")
    elif isinstance(node, str) and "${" in node:
        raise ReplayError(f"{path[:-1]} is {node!r}; a recorded configuration is resolved")
