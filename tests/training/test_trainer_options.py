"""Options of Lightning's Trainer: counted in optimiser steps, or refused by name before anything starts."""

from pathlib import Path

import numpy as np
import pytest
from helpers import runs
from omegaconf import OmegaConf

from initlab.training.build import build

SMALL = "trainer=cpu", "replicas=1", "model.hidden=[5]", "stats.every=200"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("+trainer.accumulate_grad_batches=2", "accumulate_grad_batches is 2; expected 1: each batch is one"),
        ("+trainer.barebones=true", "barebones is True; expected False"),
        (
            "+trainer.default_root_dir=here",
            "default_root_dir is 'here'; expected no value: a run's folder is",
        ),
        ("+trainer.detect_anomaly=true", "detect_anomaly is True; expected False: gradients are computed without"),
        ("+trainer.fast_dev_run=true", "fast_dev_run is True; expected False or 0: experiment=smoke"),
        ("+trainer.fast_dev_run=2", "fast_dev_run is 2; expected False or 0"),
        ("+trainer.gradient_clip_val=0.5", "gradient_clip_val is 0.5; expected 0 or 0.0: gradients are not clipped"),
        ("+trainer.limit_test_batches=0", "limit_test_batches is 0; expected 1 or 1.0: all test images are used"),
        ("+trainer.limit_val_batches=0.5", "limit_val_batches is 0.5; expected 1 or 1.0: all validation images"),
        ("+trainer.log_every_n_steps=5", "log_every_n_steps is 5; expected no value: stats.every"),
        ("trainer.logger=true", "logger is True; expected False: runs are recorded in MLflow"),
        ("+trainer.overfit_batches=1", "overfit_batches is 1; expected 0 or 0.0: limit_train_batches"),
        ("+trainer.precision=bf16-mixed", "precision is 'bf16-mixed'; expected 32 or '32' or '32-true': networks are"),
        ("+trainer.val_check_interval=2", "val_check_interval is 2; expected 1.0: validation follows an epoch"),
        ("+trainer.check_val_every_n_epoch=0", "check_val_every_n_epoch is 0; expected a whole number of at least 1"),
        ("+trainer.max_steps=0", "max_steps is 0; expected at least 1, or -1 for no limit"),
        ("+trainer.max_steps=1.5", "max_steps is 1.5; expected at least 1"),
        ("+trainer.limit_train_batches=0", "limit_train_batches is 0; expected a whole number of at least 1"),
        ("+trainer.limit_train_batches=1.5", "limit_train_batches is 1.5; expected a number of steps, or a share"),
        ("+trainer.limit_train_batches=all", "limit_train_batches is 'all'; expected a number of steps, or a share"),
    ],
)
def test_what_has_no_effect_or_breaks_is_refused(word: str, message: str, normalized: Path, tmp_path: Path) -> None:
    config = OmegaConf.create(runs.composed(normalized, *SMALL, word))
    with pytest.raises(ValueError, match=message):
        build(config, tmp_path)


@pytest.mark.filterwarnings("ignore:.*could not find the monitored key")
@pytest.mark.parametrize(
    ("words", "steps", "validated"),
    [
        (["+trainer.limit_train_batches=3", "trainer.max_epochs=2"], 6, [3, 6]),
        (["+trainer.limit_train_batches=0.2", "trainer.max_epochs=1"], 156, [156]),  # of 781 whole batches
        (["+trainer.max_steps=200"], 200, [200]),
        (["+trainer.limit_train_batches=150", "+trainer.max_steps=200"], 200, [150, 200]),
        (["+trainer.limit_train_batches=3", "trainer.max_epochs=3", "+trainer.check_val_every_n_epoch=2"], 9, [6, 9]),
        (["+trainer.limit_train_batches=3", "trainer.max_epochs=1", "trainer.num_sanity_val_steps=1"], 3, [3]),
    ],
)
def test_a_limit_counts_optimiser_steps(
    words: list[str], steps: int, validated: list[int], normalized: Path, tmp_path: Path
) -> None:
    """Whatever ends the training, the networks are validated then. The sanity check is no validation."""
    journal = runs.train(tmp_path / "run", runs.composed(normalized, *SMALL, *words))
    assert max(journal.history) == steps
    assert [step for step, values in sorted(journal.history.items()) if "val/loss" in values] == validated
    assert "test/accuracy" in journal.history[steps]


def test_fewer_steps_are_the_first_ones(normalized: Path, tmp_path: Path) -> None:
    """The order of the images does not depend on a limit."""
    short = runs.train(tmp_path / "short", runs.composed(normalized, *SMALL, "stats.every=1", "+trainer.max_steps=5"))
    words = *SMALL, "stats.every=1", "trainer.max_epochs=1", "+trainer.limit_train_batches=10"
    long = runs.train(tmp_path / "long", runs.composed(normalized, *words))
    for step in range(5):
        for name, values in short.history[step].items():
            np.testing.assert_array_equal(long.history[step][name], values, err_msg=f"{name} {step}")
