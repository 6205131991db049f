"""Builds, trains, tests and records one run."""

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor

from initlab.data import normalized_files
from initlab.data.normalize import pixel_values
from initlab.nn import gaussian, init, theory
from initlab.nn.activations import Activation
from initlab.tracking import artifacts, logged_model, provenance, reuse
from initlab.tracking.run_logger import RunLogger
from initlab.training import ddp, devices
from initlab.training.build import Components, build
from initlab.training.callbacks import EpochLog, RecordMetrics
from initlab.workers import one_thread_each

log = logging.getLogger(__name__)

PAIRED = 256  # images whose pairs theory takes the mean cosine of: all of the default probe, the first of a larger one


def train(config: Mapping[str, Any], run: RunLogger) -> float:
    """Trains and tests the networks of `config`, from the last checkpoint in the run's folder if there is one.

    Returns the validation accuracy, mean over replicas. Raises ValueError for a value that can't be used, or if the
    run's metrics are missing beside its checkpoint.
    """
    if run.finished:
        log.info(f"run {run.run_id} has finished before: nothing to do")
        return run.journal.last("val/accuracy")
    parts = build(OmegaConf.create(dict(config)), run.folder)
    trainer, network, data, statistics, reason = parts
    facts = normalized_files.read_facts(data.folder)
    dataset = {"name": data.folder.name, "source": config["data"].get("pin") or str(data.folder), "facts": facts}
    device = trainer.strategy.root_device
    if reason:
        log.info(f"device: {device}, since {reason}")
    run.log_provenance(provenance.current(facts, device, trainer.world_size), dataset)
    last = run.folder / artifacts.LAST_CHECKPOINT
    if last.exists() and not run.journal.entries:
        raise ValueError(
            f"{run.folder} has a checkpoint, but its metrics.jsonl is gone: start a new run, without resume"
        )
    metrics = RecordMetrics(run.log_metrics)
    # EpochLog is last: the metrics are recorded and the progress bar is closed by then.
    trainer.callbacks[:] = [statistics, metrics, *trainer.callbacks, EpochLog(metrics)]  # type: ignore[attr-defined]
    shared = isinstance(trainer.strategy, DDPStrategy)
    with ddp.other_ranks(train_as_rank, run.folder, trainer.world_size) if shared else nullcontext():
        _fit(parts, last, config["matmul_precision"])
    run.set_tags(**{"weights.sha256": weights_sha256(network.parameters())})
    widths, probe = network.widths(data.inputs), data.splits["validation"][0][: statistics.probe]
    cpu = torch.device("cpu")
    expected = expected_statistics(network.scheme, network.activation.to(cpu), widths, probe.to(cpu))
    expected |= {"chance": 1 / facts["classes"], "outputs": widths[-1], "probe": len(probe)}
    run.log_results(expected, statistics.tensors())
    saved = logged_model.save(
        run.folder / artifacts.MODEL,
        list(network.weights),
        list(network.biases),
        activation=network.activation,
        loss=network.loss,
        pixels=pixel_values(facts["mean"], facts["std"], facts["scale"]),
        example=data.splits["validation"][0][:2],
    )
    if not saved:
        log.info("no MLflow model is kept: it knows the losses of initlab.nn, and activations with plain constants")
    return run.journal.last("val/accuracy")


def inputs_sha256(config: Mapping[str, Any]) -> str:
    """Returns the digest of everything that the numbers of a run are a function of: see `initlab.tracking.reuse`.

    Raises what `build` raises, for a value or data that can't be used.
    """
    trainer, _, data, *_ = build(OmegaConf.create(dict(config)), Path())
    facts = normalized_files.read_facts(data.folder)
    origin = provenance.current(facts, trainer.strategy.root_device, trainer.world_size)
    return reuse.inputs_sha256(OmegaConf.to_yaml(dict(config)), origin)


def train_as_rank(folder: Path) -> None:
    """Trains the run in `folder` on one more of its devices. Rank 0, in another process, records it."""
    config = OmegaConf.load(folder / artifacts.CONFIG)
    assert isinstance(config, DictConfig)
    parts = build(config, folder)
    callbacks = [parts.statistics, RecordMetrics(lambda measurements: None)]
    parts.trainer.callbacks[:0] = callbacks  # type: ignore[attr-defined]
    _fit(parts, folder / artifacts.LAST_CHECKPOINT, config.matmul_precision)


def _fit(parts: Components, last: Path, precision: str) -> None:
    """Trains, from the last checkpoint if there is one, and tests."""
    trainer, network, data, *_ = parts
    if trainer.world_size > 1:
        trainer.callbacks.append(ddp.RestoreSigterm())  # type: ignore[attr-defined]
    full = devices.memory_errors(trainer.strategy.root_device, network.replicas)
    with full, matmul_precision(precision), one_thread_each(trainer.world_size) as network.workers:
        trainer.fit(network, data, ckpt_path=last if last.exists() else None, weights_only=True)
        if network.validated_step != trainer.global_step:  # training ended between two validations
            trainer.validate(network, data, verbose=False)
        trainer.test(network, data, verbose=False)


def expected_statistics(
    scheme: init.Scheme, activation: Activation, widths: Sequence[int], images: Tensor
) -> dict[str, float]:
    """Returns {"layer1/act_std": ...}: what `theory.moments` predicts at initialisation, on images (N, inputs).

    It is empty if weights do not have mean zero, or theory does not know the activation. Without a finite value, as
    where activations overflow, a statistic is not in it.
    widths: [inputs, hidden..., outputs].  images: normalised.
    """
    if not scheme.zero_mean or type(activation).__name__ not in gaussian.FUNCTIONS:
        return {}
    layers = init.drawn_layers(scheme, widths)
    pairs = images[:PAIRED].double()
    square_norms, products = images.double().square().sum(1), pairs @ pairs.T
    values: dict[str, float] = {}
    phi = theory.Phi.of(activation)
    for number, expected in enumerate(theory.moments(layers, square_norms, phi, products), start=1):
        names = ["preact_mean", "preact_std", "act_mean", "act_std"]
        if number < len(layers):
            names += ["saturated_fraction", "act_cosine", "backward_ratio"]
        values |= {f"layer{number}/{name}": float(getattr(expected, name)) for name in names}
    return {name: value for name, value in values.items() if isfinite(value)}


def weights_sha256(parameters: Iterable[Tensor]) -> str:
    """Returns the SHA-256 of weights and biases, of their bytes in memory, in the order given."""
    sha = hashlib.sha256()
    for parameter in parameters:
        sha.update(parameter.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()


@contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    """Within the context, sets how float32 matrices are multiplied: see torch.set_float32_matmul_precision.

    highest: in float32.  high: in TF32, or as sums of bfloat16.  medium: in bfloat16.  The latter two take effect only
    on devices that support them. Sums are always in float32.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
