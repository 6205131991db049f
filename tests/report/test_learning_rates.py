"""Sweeps over learning rates: the best of each scheme, chosen on validation images, and the comparison there."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import command
from helpers.sweeps import run, sweep
from hydra import compose, initialize_config_dir

from initlab import report
from initlab.report import figures, sentences, theme
from initlab.report.layout import lay_out
from initlab.tracking import results

SPREAD = (-0.001, 0.0, 0.002)
CURVES = {
    "kaiming": {"0.01": 0.90, "0.1": 0.96, "1": 0.50},
    "pytorch": {"0.01": 0.85, "0.1": 0.93, "1": 0.97},
}


def made_up(curves: dict[str, dict[str, float]], **others: str) -> results.Results:
    """Three replicas per run, which differ by the same in every run."""
    return sweep(
        *(
            run({"init": init, **others, "optimizer.lr": rate}, [mean + more for more in SPREAD])
            for init, curve in curves.items()
            for rate, mean in curve.items()
        )
    )


def said(found: results.Results) -> str:
    return " ".join(sentences.learning_rates(lay_out(found))).replace("\N{NO-BREAK SPACE}", " ")


def diverge(found: results.Results, run: str, replicas: int = 3) -> None:
    """Makes the last replicas of a run guess, with a loss of NaN."""
    rows = (found.replicas["run"] == run) & (found.replicas["replica"] >= 3 - replicas)
    found.replicas.loc[rows, ["val/loss", "train/loss"]] = np.nan
    found.replicas.loc[rows, ["val/accuracy", "test/accuracy"]] = 0.1


def test_each_scheme_is_compared_at_its_own_best() -> None:
    view = lay_out(made_up(CURVES))
    assert view.run == {
        ("kaiming", ""): "init=kaiming,optimizer.lr=0.1",
        ("pytorch", ""): "init=pytorch,optimizer.lr=1",
    }
    assert view.difference("pytorch", "", "test/accuracy") == pytest.approx((0.01, 0), abs=1e-12)
    ((setting, reference, rows),) = sentences.learning_rate_rows(view)
    assert (setting, reference, [row["variant"] for row in rows]) == ("", "kaiming", ["pytorch", "kaiming"])
    assert (rows[0]["rate"], rows[0]["alike"], rows[1]["rate"]) == ("1 (largest tried)", "1", "0.1")
    assert [rows[0][name][:5] for name in ("own", "shared")] == ["+1.00", "-3.00"]  # at 0.1, 0.93 - 0.96
    text = said(made_up(CURVES))
    assert "trained at 3 learning rates from 0.01 to 1" in text
    assert "The best learning rate is 0.1 for `kaiming` and 1 for `pytorch`." in text
    assert "For `pytorch` it is the largest that was tried, so a larger one may be better." in text
    assert "With each at its best, compared with `kaiming` (96.03 ± 0.38 %): significantly better: `pytorch`." in text
    assert (
        "At 0.1, the best rate of `kaiming`, for all, the result is another for `pytorch` (significantly worse there, "
        in text
    )


def test_the_choice_does_not_see_the_test_images() -> None:
    found = made_up(CURVES)
    found.replicas.loc[found.replicas["run"] == "init=kaiming,optimizer.lr=0.01", "test/accuracy"] = 0.99
    assert lay_out(found).run["kaiming", ""] == "init=kaiming,optimizer.lr=0.1"


def test_what_can_not_be_told_from_the_best_is_a_range() -> None:
    """Replica by replica 0.03 differs from 0.1 by -4, 0 and 3 thousandths, which no interval tells from zero."""
    found = made_up({"kaiming": {"0.01": 0.9, "0.03": 0.96, "0.1": 0.96, "0.3": 0.9}})
    last = (found.replicas["optimizer.lr"] == "0.03") & found.replicas["test/accuracy"].notna()
    found.replicas.loc[last, "val/accuracy"] += [-0.004, 0.0, 0.003]
    ((_, _, (row,)),) = sentences.learning_rate_rows(lay_out(found))
    assert (row["rate"], row["alike"]) == ("0.1", "0.03 to 0.1")


def test_replicas_that_diverge_are_counted() -> None:
    found = made_up(CURVES | {"lost": {"0.01": 0.9, "0.1": 0.9, "1": 0.9}})
    diverge(found, "init=pytorch,optimizer.lr=1", 2)
    for rate in ("0.01", "0.1", "1"):
        diverge(found, f"init=lost,optimizer.lr={rate}")
    text = said(found)
    assert lay_out(found).run["pytorch", ""] == "init=pytorch,optimizer.lr=0.1"
    assert "Above their best rate, networks diverge from these rates on: 1 (`pytorch`)." in text
    assert "All networks of `lost` diverge at every learning rate." in text
    assert "The best learning rate is 0.1 for `kaiming` and `pytorch`." in text
    rows = {row["variant"]: row for row in sentences.learning_rate_rows(lay_out(found))[0][2]}
    assert [rows["lost"][name] for name in ("rate", "alike", "accuracy", "own")] == ["none", "", "3 of 3 diverged", ""]


def test_what_diverges_at_its_best_is_not_compared() -> None:
    found = made_up(CURVES)
    diverge(found, "init=pytorch,optimizer.lr=0.1", 1)
    diverge(found, "init=pytorch,optimizer.lr=1", 1)
    found.replicas.loc[found.replicas["run"] == "init=pytorch,optimizer.lr=0.01", "val/accuracy"] = 0.2
    text = said(found)
    assert "Networks of `pytorch` diverge even at the best rate" in text
    assert "With each at its best" not in text
    rows = {row["variant"]: row for row in sentences.learning_rate_rows(lay_out(found))[0][2]}
    assert [rows["pytorch"][name] for name in ("rate", "alike", "own")] == ["1 (largest tried)", "", ""]


def test_one_replica_has_no_interval() -> None:
    found = sweep(*(run({"init": "kaiming", "optimizer.lr": rate}, [0.9]) for rate in ("0.01", "0.1", "1")))
    ((_, _, (row,)),) = sentences.learning_rate_rows(lay_out(found))
    assert (row["rate"], row["alike"]) == ("0.01 (smallest tried)", "")
    assert "a smaller one may be better" in said(found)


FIVE = dict.fromkeys(("kaiming", "a", "b", "c", "d"), CURVES["kaiming"])
BOTH = [made_up(CURVES, model=model) for model in ("shallow", "deep")]


@pytest.mark.parametrize(
    ("found", "curves", "variants", "drawn"),
    [
        (made_up(CURVES), 2, 2, {"learning_rate"}),
        (made_up(FIVE), 5, 5, {"learning_rate", "learning_rate_map"}),
        (sweep(*BOTH), 4, 2, {"learning_rate"}),
        (sweep(*(run({"optimizer.lr": rate}) for rate in ("0.1", "0.2", "0.3"))), 1, 3, {"learning_rate"}),
        (sweep(*(run({"optimizer.lr": f"0.{n}"}) for n in range(1, 8))), 1, 7, {"learning_rate", "search"}),
        (made_up({name: {"0.1": 0.9, "1": 0.9} for name in ("kaiming", "a")}), 0, 2, set()),
        (sweep(*BOTH, run({"init": "c", "model": "deep", "optimizer.lr": "0.2"})), 5, 3, {"learning_rate"}),
    ],
    ids=["two schemes", "five schemes", "two settings", "one scheme", "a search", "two rates", "one rate"],
)
def test_any_such_sweep_has_its_curves(found: results.Results, curves: int, variants: int, drawn: set[str]) -> None:
    view = lay_out(found)
    assert (len(view.rates.curves) if view.rates else 0, len(view.variants)) == (curves, variants)
    assert bool(sentences.learning_rates(view)) == bool(curves)
    assert sum(len(rows) for *_, rows in sentences.learning_rate_rows(view)) == curves
    offered = figures.figures(view, None)
    names = {name: re.sub(r"_\d+$", "", name) for name in offered}
    assert {*names.values()} & {"learning_rate", "learning_rate_map", "search"} == drawn
    for name in offered:
        if names[name] in drawn:
            assert theme.svg(offered[name]().to_dict()).startswith("<svg")


def test_the_page_shows_the_best_and_the_tables_all(tmp_path: Path) -> None:
    found = made_up(CURVES)
    names = report.write(lay_out(found), tmp_path)
    assert report.ERRORS not in names
    assert "figures/learning_rate.svg" in names
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "<h2>The learning rate</h2>" in page
    assert "2 variants, 6 runs of 3 replicas: 18 networks" in page
    for table in ("comparison.csv", "comparison.md"):
        text = (tmp_path / table).read_text(encoding="utf-8")
        assert all(name in text for name in found.runs)


def test_the_terminal_says_at_which_rate() -> None:
    text = report.terminal_table(lay_out(made_up(CURVES)), {})
    assert [re.split(r" {2,}", line)[:2] for line in text.splitlines()[:3]] == [
        ["variant", "learning rate"],
        ["pytorch", "1 (largest tried)"],
        ["kaiming", "0.1"],
    ]
    assert "and is shown here at the rate that is best for it" in text
    assert "learning rate |" in report.summary(lay_out(made_up(CURVES)), {})[1]


def test_the_preset_sweeps_what_the_pipeline_trains() -> None:
    root = Path(__file__).parents[2]
    with initialize_config_dir(str(root / "conf"), version_base="1.3"):
        params = compose("config", ["experiment=lr_map"], return_hydra_config=True).hydra.sweeper.params
    (trained,) = re.findall(r"^init: (.*)$", (root / "params.yaml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(params.init.split(",")) == sorted(trained.split(","))
    rates = [float(rate) for rate in params["optimizer.lr"].split(",")]
    assert np.diff(np.log10(rates)) == pytest.approx(0.5, abs=0.03)


def test_a_real_sweep(project: Path) -> None:
    """With what is typed in place of the preset's values."""
    words = ["experiment=lr_map", "init=kaiming,pytorch", "optimizer.lr=0.01,0.1,1000000", "replicas=2"]
    words += ["trainer.max_epochs=1", "+trainer.limit_train_batches=20", "stats.every=10", "hydra/launcher=batched"]
    done = command([sys.executable, "train.py", "-m", *words], project)
    assert "6 of 6  init=pytorch" in done.stdout
    assert "learning rate" in done.stdout
    (page,) = (project / "multirun").glob("*/*/report/index.html")
    assert "<h2>The learning rate</h2>" in page.read_text(encoding="utf-8")
    assert (page.parent / "comparison.md").read_text(encoding="utf-8").count("\n") == 2 + 6
