"""The verdict, on results made up: what is right reads reproduced, what is wrong by a little does not."""

import re

import numpy as np
import pandas as pd
import pytest
from helpers.reproductions import LAST, config, numbers, run, step0

from initlab.nn import init
from initlab.nn.activations import ReLU
from initlab.reproduction.verdict import (
    DIFFERS,
    NOT_COMPARED,
    SAME,
    UNDECIDED,
    WITHIN,
    Row,
    compare,
    sentence,
    typical_difference,
)

START = step0()
RANDOM = np.random.default_rng(0)
ACCURACY = 0.97 + 0.002 * RANDOM.standard_normal(8)


def results(start: dict[str, np.ndarray] = START, **changes: object) -> pd.DataFrame:
    return run(start, **{"losses": np.linspace(0.5, 0.6, 8), "accuracy": ACCURACY} | changes)


REFERENCE = numbers({"init=kaiming": results()})


def verdict(here: pd.DataFrame, **changes: object) -> str:
    """Of one run with these settings."""
    return sentence(rows(here, **changes))


def rows(here: pd.DataFrame, **changes: object) -> list[Row]:
    return compare(REFERENCE, numbers({"init=kaiming": here}, configs={"init=kaiming": config(**changes)}))


def result(found: list[Row], level: str, what: str) -> str:
    (row,) = {row.result for row in found if (row.level, row.what) == (level, what)}
    return row


def test_the_same_bits() -> None:
    assert verdict(results()) == "reproduced: 1 of 1 runs, to the bit"


def test_rounding_and_chance() -> None:
    start = {name: values * (1 + 1e-7) for name, values in START.items()}
    noise = 0.002 * RANDOM.standard_normal(8)
    here = results(start, losses=np.linspace(0.5, 0.6, 8) * (1 + 2e-6), accuracy=ACCURACY + noise - noise.mean())
    assert verdict(here) == (
        "reproduced: 1 of 1 runs (step 0 within 1e-7; early losses within 2e-6; accuracies within chance)"
    )


LAYER = r"layer \d \w+_(mean|std) at step 0 differs by "


@pytest.mark.parametrize(
    ("start", "settings", "said"),
    [
        (step0(lr=0.049), {"optimizer__lr": 0.049}, r"update_ratio at step 0 differs by 2 % \(optimizer.lr is 0.049"),
        (step0(init.kaiming(gain=1.98)), {}, LAYER),
        (step0(init.kaiming(gain=1.98)), {"matmul_precision": "medium"}, LAYER),
        (step0(phi=ReLU(shift=0.01)), {}, LAYER),
        (step0(phi=ReLU(leak=0.01)), {}, LAYER),
        (step0(init.TorchLinear()), {}, LAYER),
        (step0(seed=1), {"seed": 1}, r"at step 0 differs by .* \(seed is 1, in the reference 0\)"),
        (START | {"layer2/act_std": START["layer2/act_std"] * np.nan}, {}, "layer 2 act_std at step 0 is nan, in the"),
    ],
)
def test_wrong_by_a_little_at_step_0(start: dict[str, np.ndarray], settings: dict[str, object], said: str) -> None:
    found = verdict(results(start), **settings)
    assert found.startswith("NOT reproduced: init=kaiming: ")
    assert re.search(said, found)


def test_one_flipped_unit_is_no_difference() -> None:
    """A pre-activation within rounding of 0: its replica's gradients change by more than rounding would."""
    flipped = {name: values.copy() for name, values in START.items()}
    flipped["layer3/saturated_fraction"][2] += 1 / (30 * 128)
    flipped["layer3/delta_std"][2] *= 1 + 1e-3
    flipped["layer2/grad_std"][2] *= 1 + 3e-3
    assert verdict(results(flipped)).startswith("reproduced: 1 of 1 runs (step 0 within ")
    del flipped["layer3/saturated_fraction"]
    wrong = START | {name: flipped[name] for name in ("layer3/delta_std", "layer2/grad_std")}
    assert verdict(results(wrong)).startswith("NOT reproduced: init=kaiming: layer ")  # nothing has flipped


def test_early_losses() -> None:
    """They may differ by ten times the growth that was measured, 1e-6 at step 200 and 2e-6 at step 400."""
    losses = np.linspace(0.5, 0.6, 8)
    one = losses * (1 + 0.01 * (np.arange(8) == 3))  # a replica with a flip
    assert verdict(results(losses=one)).startswith("reproduced: 1 of 1 runs")
    assert result(rows(results(losses=losses * (1 + 4e-6))), "early", "train/loss") == WITHIN
    wrong = verdict(results(losses=losses * 1.002))
    assert wrong == "NOT reproduced: init=kaiming: train/loss at step 200 differs by 0.2 %"


def test_early_losses_are_not_compared_once_rounding_has_grown() -> None:
    here = numbers({"init=kaiming": results(losses=np.linspace(0.51, 0.61, 8))})
    for growth, note in ({"init=kaiming": {200: 0.01, 400: 0.02}}, "grown"), ({}, "not known"):
        found = compare(REFERENCE._replace(growth=growth), here)
        early = [row for row in found if row.level == "early"]
        assert {row.result for row in early} == {NOT_COMPARED}
        assert all(note in row.note for row in early)
        assert sentence(found).startswith("reproduced: 1 of 1 runs")


def test_a_quarter_of_the_replicas_without_a_flip_is_enough() -> None:
    there = np.ones(8)
    assert typical_difference(there, 1 + np.array([0.3, 0, 0.4, 0.6, 0, 0.1, 0.5, 0.2])) == 0
    assert typical_difference(there, 1 + np.array([0.3, 0, 0.4, 0.6, 0.7, 0.1, 0.5, 0.2])) == pytest.approx(0.1)
    lost = np.array([np.nan, 1.0, 1.0, 1.0, 2.0])
    assert typical_difference(lost, lost * [1, 1.1, 1.2, 1.3, 1.4]) == pytest.approx(0.1)  # both lack the first
    assert typical_difference(lost, np.array([1.0, np.nan, np.nan, np.nan, np.nan])) == np.inf
    assert np.isnan(typical_difference(np.full(3, np.nan), np.full(3, np.nan)))


def test_a_reference_without_a_statistic_is_compared_in_the_rest() -> None:
    table = REFERENCE.replicas.drop(columns="layer2/saturated_fraction")
    found = compare(REFERENCE._replace(replicas=table), numbers({"init=kaiming": results()}))
    (step0,) = [row for row in found if row.level == "step 0"]
    assert (step0.result, step0.note) == (NOT_COMPARED, "layer2/saturated_fraction is not in both results")
    assert sentence(found).startswith("reproduced: 1 of 1 runs")


# Final values


def test_a_difference_by_more_than_chance() -> None:
    noise = 1e-4 * RANDOM.standard_normal(8)
    found = verdict(results(accuracy=ACCURACY - 0.003 + noise))
    assert found.startswith("NOT reproduced: init=kaiming: test/")
    assert verdict(results(accuracy=ACCURACY - 0.003)).startswith("NOT reproduced")  # the same difference everywhere


def test_tests_are_corrected_for_their_number() -> None:
    """A probability of 0.0001 is no chance in one run, and may be in the rarest of twenty (Holm, level 0.001)."""
    differences = np.linspace(0.5, 1.5, 8) * 1e-3
    odd = results(accuracy=ACCURACY + differences)
    (p,) = (row.p for row in rows(odd) if row.what == "test/accuracy")
    usual = 1e-4 * RANDOM.standard_normal(8)
    usual = results(accuracy=ACCURACY + usual - usual.mean())
    many = {f"seed={number}": results() for number in range(20)}
    here = many | {"seed=0": odd} | {f"seed={number}": usual for number in range(1, 20)}
    found = compare(numbers(many), numbers(here))
    assert p is not None
    assert 0.001 / 40 < p < 0.001 / 2
    assert any(row.result == DIFFERS for row in rows(odd))
    assert not any(row.result == DIFFERS for row in found)


def test_too_uncertain_is_undecided() -> None:
    """No difference is shown, but the mean may differ by more than a percentage point."""
    noise = 0.03 * RANDOM.standard_normal(8)
    found = rows(results(accuracy=ACCURACY + noise - noise.mean()))
    assert result(found, "final", "test/accuracy") == UNDECIDED
    assert sentence(found) == "undecided: init=kaiming"


def test_diverged_replicas_are_counted_and_left_out() -> None:
    there = numbers({"init=kaiming": results(diverged=1)})
    noise = 1e-3 * RANDOM.standard_normal(8)
    found = compare(there, numbers({"init=kaiming": results(diverged=2, accuracy=ACCURACY + noise - noise.mean())}))
    (row,) = (row for row in found if row.what == "diverged")
    assert (row.reference, row.here, row.result) == (1, 2, WITHIN)
    assert sentence(found).startswith("reproduced: 1 of 1 runs")
    assert verdict(results(diverged=8)) == "NOT reproduced: init=kaiming: 8 replicas diverged, in the reference 0"
    lost = {f"seed={number}": results(diverged=8 if number == 3 else 1) for number in range(22)}
    many = compare(numbers({name: results() for name in lost}), numbers(lost))
    assert [row.run for row in many if row.result == DIFFERS] == ["seed=3"]
    alone = compare(there, numbers({"init=kaiming": results(diverged=7)}))
    assert result(alone, "final", "test/accuracy") == NOT_COMPARED


# What can't be compared


def test_other_data() -> None:
    same = compare(REFERENCE, numbers({"init=kaiming": results()}, digest="other"))
    assert sentence(same) == "NOT reproduced: data: other train images or labels, by their SHA-256"
    both = compare(REFERENCE, numbers({"init=kaiming": results(step0(seed=1))}, digest="other"))
    assert sentence(both).startswith(
        "NOT reproduced: data: other train images or labels, by their SHA-256; init=kaiming: "
    )
    absent = compare(REFERENCE, numbers({"init=kaiming": results()})._replace(data={}))
    assert result(absent, "data", "data/normalized/mnist") == NOT_COMPARED
    assert sentence(absent) == "reproduced: 1 of 1 runs, to the bit"


def test_a_run_that_the_reference_lacks() -> None:
    here = numbers({"init=kaiming": results(), "init=mine": results()}, configs={"init=mine": config(seed=7)})
    assert sentence(compare(REFERENCE, here)) == ("reproduced: 1 of 2 runs, to the bit; not compared: init=mine")
    mine = numbers({"init=mine": results()}, configs={"init=mine": config(seed=7)})
    assert sentence(compare(REFERENCE, mine)) == "not compared: init=mine"


def test_a_run_of_another_name_is_found_by_its_configuration() -> None:
    assert sentence(compare(REFERENCE, numbers({"any": results()}))) == "reproduced: 1 of 1 runs, to the bit"


def test_other_epochs_and_other_replicas() -> None:
    longer = rows(results(last=2 * LAST))
    assert sentence(longer) == "reproduced: 1 of 1 runs, to the bit (final values not compared)"
    (row,) = (row for row in longer if row.level == "final")
    assert row.note == "12496 optimiser steps, in the reference 6248"
    more = {name: np.concatenate([values, values]) for name, values in START.items()}
    found = rows(run(more, losses=np.tile(np.linspace(0.5, 0.6, 8), 2), accuracy=np.tile(ACCURACY, 2)))
    (row,) = (row for row in found if row.what == "replicas")
    assert row.note == "16, in the reference 8; those that both have are compared"
    assert sentence(found) == "reproduced: 1 of 1 runs, to the bit"


def test_another_model() -> None:
    (row,) = rows(results(), model__hidden=[30])
    assert (row.result, row.note) == (NOT_COMPARED, "its model is another one in the reference")


def test_every_row_of_the_same_bits_says_so() -> None:
    assert {row.result for row in rows(results())} == {SAME}
