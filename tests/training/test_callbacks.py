"""A bar while a long epoch lasts, on a terminal; nothing but lines where there is none."""

import re
from pathlib import Path

import pytest
from conftest import Train, on_a_terminal

# An epoch that takes longer than a second, after which the bar is shown: with four workers too, for four groups.
LONG = (
    "trainer=cpu",
    "trainer.max_epochs=1",
    "+trainer.limit_train_batches=768",
    "replicas=16",
    "model.hidden=[100,100]",
)


def test_an_epoch_is_told_while_it_lasts(project: Path) -> None:
    shown = on_a_terminal(LONG, project)
    steps = [int(step) for step in re.findall(r"epoch 1/1: [^\r]* (\d+)/768 ", shown)]
    assert steps == sorted(steps)
    assert 0 < steps[0] < steps[-1] <= 768
    assert re.search(r"\r *\repoch 1/1 ", shown)  # wiped out before the epoch's line is printed


@pytest.mark.slow
def test_a_file_gets_no_bar(train: Train) -> None:
    done = train(*LONG)
    assert "\r" not in done.stdout
    assert done.stderr == ""


@pytest.mark.slow
def test_a_terminal_gets_none_if_the_log_is_off(project: Path) -> None:
    assert "768" not in on_a_terminal((*LONG, "hydra/job_logging=disabled"), project)
