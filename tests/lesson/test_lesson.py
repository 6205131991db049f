"""The lesson's table: every printed number has its row, and every verdict can fail."""

from math import sqrt
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT

from initlab.data.normalize import write_normalized
from initlab.data.normalized_files import load
from initlab.lesson import rows, sampling
from initlab.lesson import table as lesson_table
from initlab.nn import init
from initlab.nn.activations import ReLU
from initlab.nn.losses import CrossEntropy, MeanSquaredError
from initlab.workers import Workers

PRINTED = {
    "A": """33.3184 78.5675 1.8892e-08 1. 0.0142 0.9757 0.3912 0.5861 -0.0003 0.0504 0.5439 0.8457 0.4811 0.7848""",
    "B": """0.1304 0.3073 3.0614e-05 1. -0.0058 0.9924 0.0004 0.9786 0.3875 0.5665 -7.2458e-05 0.0507 0.5510 0.8071
            0.1513 0.8884""",
}
IN_WORDS = {
    "A": ["60000, 784, tensor(0, dtype=torch.uint8)"],
    "B": ["50000, 784, 10", "[784, 50]", "[50, 784]"],
}


@pytest.fixture(scope="module")
def normalized_both(raw: Path, normalized: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/normalized, with both regimes."""
    folder = tmp_path_factory.mktemp("both")
    write_normalized(raw, folder / "mnist_60k", validation=None, scale=1)
    (folder / "mnist").symlink_to(normalized)
    return folder


@pytest.fixture(scope="module")
def table(raw: Path, normalized_both: Path, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """As the command makes it, of few draws."""
    path = tmp_path_factory.mktemp("table") / "lesson.csv"
    lesson_table.write_table(raw, normalized_both, path, draws=30)
    return pd.read_csv(path, dtype={"printed": str, "ours": str})


@pytest.mark.parametrize("source", ["A", "B"])
def test_every_printed_number_has_its_row(table: pd.DataFrame, source: str) -> None:
    rows = table[table["source"] == source]
    assert sorted(rows["printed"]) == sorted([*PRINTED[source].split(), *IN_WORDS[source]])


def test_what_is_a_function_of_the_data_agrees_to_the_printed_digits(table: pd.DataFrame) -> None:
    fixed = table[(table["source"] != "C") & table["low"].isna()]
    assert len(fixed) == 14
    assert (fixed["printed"] == fixed["ours"]).sum() == 12
    assert set(fixed["verdict"]) == {"exact"}
    differing = fixed[fixed["printed"] != fixed["ours"]]
    assert list(differing["quantity"]) == ["training mean, normalised"] * 2
    assert differing["note"].str.contains("float32").all()


def test_the_table_in_git_is_of_a_thousand_draws_and_doubts_no_printed_number() -> None:
    kept = pd.read_csv(ROOT / "report" / "lesson.csv")
    assert "--draws 1000" in (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    assert not (kept.loc[kept["source"] != "C", "verdict"] == "outside").any()
    random = kept[kept["low"].notna() & (kept["source"] != "C")]
    assert random["percentile"].between(0.5, 99.5).all()
    verdicts = kept[kept["source"] == "C"].set_index("quantity")["verdict"]
    assert verdicts["a shift of 0.5 makes the mean zero"] == "outside"  # it is near it
    assert verdicts["Kaiming's 2 restores the scale"] == "inside"
    assert verdicts["randn is uniform"] == "outside"
    assert verdicts["the shift changes the std"] == "outside"


def test_draws_are_those_of_the_formulas(normalized: Path) -> None:
    """Three draws on 200 images, in float64, written as the lesson has it: x @ w."""
    images = load(normalized, "validation")[0][:200]
    found = sampling.first_layer_moments(
        init.kaiming(), images, {"lin": None, "shifted": ReLU(shift=0.5)}, 3, Workers()
    )
    (W,), _ = init.draw(init.kaiming(), [784, 50], replicas=3, seed=0)
    for draw, w in enumerate(W.mT.double()):
        lin = images.double() @ w
        a = lin.clamp_min(0.0) - 0.5
        expected = {"w1": w, "lin": lin, "shifted": a}
        for name, values in expected.items():  # ours are float32, summed in slices
            assert found[f"{name} mean"][draw] == pytest.approx(values.mean().item(), abs=1e-6)
            assert found[f"{name} std"][draw] == pytest.approx(values.std().item(), rel=1e-5)


def test_theory_is_the_mean_of_the_draws(normalized: Path) -> None:
    """The mean of the first ReLU layer, and its second moment, at any width: within 4 standard errors of 400 draws."""
    images = load(normalized, "validation")[0][:500]
    found = sampling.first_layer_moments(init.kaiming(), images, {"relu": sampling.RELU}, 400, Workers())
    expected = lesson_table.expectations(2 / 784, images)
    mean, second = found["relu mean"], found["relu std"] ** 2 + found["relu mean"] ** 2
    assert abs(mean.mean() - expected["relu mean"]) < 4 * mean.std(ddof=1) / sqrt(400)
    value = expected["relu std"] ** 2 + expected["relu mean"] ** 2
    assert abs(second.mean() - value) < 4 * second.std(ddof=1) / sqrt(400)


def test_a_draw_trains_as_a_run_of_its_own(normalized: Path) -> None:
    """Draws share slices of replicas; the accuracies do not depend on where a slice ends."""
    loss = MeanSquaredError(10)
    many, few = (sampling.accuracies(normalized, loss, 0.002, draws, Workers()) for draws in (sampling.SLICE[0] + 2, 2))
    assert list(many[:2]) == pytest.approx(list(few), abs=1e-3)  # two images of 2,000: products of other shapes round


def test_losses_are_compared_draw_by_draw(normalized: Path) -> None:
    """Neither mean is exact: the interval is that of the mean of the differences."""
    row = lesson_table.claim_on_the_loss(normalized, 8, Workers())
    mse = sampling.accuracies(normalized, MeanSquaredError(10), 0.002, 8, Workers())
    cross_entropy = sampling.accuracies(normalized, CrossEntropy(10), 0.05, 8, Workers())
    differences = 100 * (mse - cross_entropy)
    half = 2.5758 * differences.std(ddof=1) / sqrt(8)
    assert (row.low, row.high) == pytest.approx((differences.mean() - half, differences.mean() + half), rel=1e-4)
    assert (row.printed, row.verdict) == ("0", "outside")
    assert float(row.ours) == pytest.approx(differences.mean(), rel=1e-3)


def test_verdicts_can_fail() -> None:
    assert rows.exact("A", "q", "e", "33.3184", 33.31842).verdict == "exact"
    assert rows.exact("A", "q", "e", "33.3184", 33.3186).verdict == "outside"
    assert rows.exact("A", "q", "e", "1.", 0.4).verdict == "outside"
    assert rows.verbatim("A", "q", "e", "[784, 50]", "[50, 784]").verdict == "outside"
    drawn = np.linspace(0, 1, 1001)
    row = rows.random("A", "q", "e", "0.25", drawn, 0.5)
    assert (row.verdict, row.low, row.high, row.percentile) == ("inside", 0.005, 0.995, 25.0)
    assert rows.random("A", "q", "e", "0.004", drawn, 0.5).verdict == "outside"
    assert rows.expectation("q", "e", "0.51", drawn, 0.5).verdict == "inside"  # the mean's standard error is 0.009
    assert rows.expectation("q", "e", "0.53", drawn, 0.5).verdict == "outside"
    assert rows.random("A", "q", "e", "0.996", drawn, 0.5).verdict == "outside"
    centred = torch.tensor([-1.0, 1.0])
    assert rows.zero("A", "q", "e", "1e-8", centred, 1e-7, "").verdict == "exact"
    assert rows.zero("A", "q", "e", "2e-7", centred, 1e-7, "").verdict == "outside"
    assert rows.zero("A", "q", "e", "1e-8", centred + 1e-3, 1e-7, "").verdict == "outside"


def test_too_few_draws_are_refused(raw: Path, normalized_both: Path) -> None:
    with pytest.raises(ValueError, match="draws is 1; expected a whole number of at least 2"):
        lesson_table.rows(raw, normalized_both, draws=1, workers=Workers())
