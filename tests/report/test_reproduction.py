"""The report's section on the comparison with published results."""

from pathlib import Path

import pandas as pd
import pytest
from helpers import sweeps

from initlab import report
from initlab.report import reproduction
from initlab.report.command import report_on
from initlab.report.layout import lay_out
from initlab.reproduction.command import write
from initlab.reproduction.verdict import Row
from initlab.tracking import results

SAID = "NOT reproduced: init=normal: layer 1 act_std at step 0 differs by 2 %"
ROWS = [
    Row("init=kaiming", "data", "train", "same bits"),
    Row("init=kaiming", "step 0", "layer1/act_std", "within bounds", 0, 1, 1.0, 1.0, 2e-7, 2e-5),
    Row("init=kaiming", "step 0", "layer1/update_ratio", "not compared", 0),
    Row("init=kaiming", "early", "train/loss", "not compared", 200),
    Row("init=kaiming", "final", "test/accuracy", "undecided", 400, None, 0.9, 0.89, -0.01, 0.02, 0.25),
    Row("init=normal", "data", "train", "same bits"),
    Row("init=normal", "step 0", "layer1/act_std", "differs", 0, 1, 1.0, 1.02, 0.02, 2e-5),
]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """What `initlab reproduce --output` writes."""
    write(ROWS, SAID, tmp_path / "reproduction.csv")
    return tmp_path / "reproduction.csv"


def test_each_run_has_a_line_from_sharp_to_chance(written: Path) -> None:
    table = reproduction.read(written)
    assert reproduction.verdict(table) == SAID
    assert reproduction.summary(table) == [
        ["init=kaiming", "same bits", "0.01 of the bound", "not compared", "p ≥ 0.25; undecided"],
        ["init=normal", "same bits", "differs", "not compared", "not compared"],
    ]


def test_the_page_has_a_section_only_if_there_is_a_comparison(written: Path, tmp_path: Path) -> None:
    layout = lay_out(sweeps.sweep(sweeps.run({"init": "kaiming"}), sweeps.run({"init": "normal"})))
    report.write(layout, tmp_path, None, reproduction.read(written))
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert f"<b>{SAID}</b>" in page
    assert '<td class="outside">differs</td>' in page
    report.write(layout, tmp_path)
    assert "Reproduced or not" not in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_the_verdict_is_printed_last(written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results.save(sweeps.sweep(sweeps.run({"init": "kaiming"}), sweeps.run({"init": "normal"})), tmp_path / "results")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    report_on([str(tmp_path / "results")], tmp_path / "made", None, written, uri=uri)
    assert capsys.readouterr().out.splitlines()[-1] == SAID
    assert (tmp_path / "made" / "reproduction.csv").read_bytes() == written.read_bytes()


def test_another_table_is_refused(tmp_path: Path) -> None:
    pd.DataFrame({"run": ["a"], "level": ["data"]}).to_csv(tmp_path / "other.csv", index=False)
    for name in ("other.csv", "none.csv"):
        with pytest.raises(ValueError, match=f"{name} is not a comparison with a reference"):
            reproduction.read(tmp_path / name)


def test_a_comparison_that_could_not_be_made(tmp_path: Path) -> None:
    write([], "not compared: reference holds no origin.json", tmp_path / "none.csv")
    table = reproduction.read(tmp_path / "none.csv")
    assert reproduction.verdict(table) == "not compared: reference holds no origin.json"
    assert reproduction.summary(table) == []
