"""`initlab.load_sweep`: tables that say what the sweep's files say, and the report's figures by name."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import environment
from helpers.pages import blocks
from helpers.sweeps import STEPS, run, sweep

import initlab
from initlab.report.recorded_sweep import RecordedSweep
from initlab.tracking import results

HIDDEN = 2


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two schemes at two learning rates; at the larger one, a replica diverges."""
    folder = tmp_path_factory.mktemp("saved") / "results"
    runs = [
        run({"init": init, "optimizer.lr": rate}, (accuracy, accuracy + 0.02), hidden=HIDDEN, diverged=rate == "0.5")
        for init, accuracy in (("kaiming", 0.9), ("normal", 0.5))
        for rate in ("0.1", "0.5")
    ]
    results.save(sweep(*runs), folder)
    return folder


@pytest.fixture(scope="module")
def loaded(saved: Path) -> RecordedSweep:
    return initlab.load_sweep(saved)


def test_a_run_has_its_swept_values_and_its_configuration(loaded: RecordedSweep) -> None:
    runs = loaded.runs
    assert list(runs.columns[:3]) == ["run", "init", "optimizer.lr"]
    assert list(runs["optimizer.lr"]) == [0.1, 0.5, 0.1, 0.5]
    assert set(runs["model.hidden"].map(len)) == {HIDDEN}
    assert runs.columns.is_unique
    assert (runs["stats.probe"] == 256).all()


def test_metrics_are_all_values_of_all_replicas(loaded: RecordedSweep) -> None:
    table = loaded.metrics
    assert list(table.columns[:5]) == ["run", "init", "optimizer.lr", "step", "replica"]
    assert not table.duplicated(["run", "step", "replica"]).any()
    assert len(table) == 4 * 2 * len(STEPS)
    assert table["test/accuracy"].notna().sum() == 4 * 2


def test_the_summary_counts_what_diverged_and_leaves_it_out(loaded: RecordedSweep) -> None:
    table = loaded.summary.set_index("run")
    assert table.index[0] == "init=kaiming,optimizer.lr=0.1"  # the mean of all replicas is the same at 0.5
    assert list(table.loc["init=normal,optimizer.lr=0.5", ["diverged", "test/accuracy"]]) == [1, 0.5]
    both = table.loc["init=kaiming,optimizer.lr=0.1"]
    assert both["test/accuracy"] == pytest.approx(0.91)
    assert both["test/accuracy.ci95"] == pytest.approx(12.706 * 0.01, rel=1e-4)  # t_{0.975, 1} 0.02 / sqrt(2) / sqrt(2)


def test_layers_have_a_row_each(loaded: RecordedSweep) -> None:
    table = loaded.layers
    assert sorted(set(table["layer"])) == [1, 2, 3]
    first = table[(table["step"] == 0) & (table["init"] == "kaiming") & (table["optimizer.lr"] == 0.1)]
    np.testing.assert_allclose(first["act_std"], 0.45 * 0.8 ** first["layer"])


def test_figures_are_the_reports(loaded: RecordedSweep) -> None:
    assert "overview" in loaded.figures
    assert len(loaded.figures) == len(set(loaded.figures))
    assert loaded.figure("overview") is not None
    with pytest.raises(ValueError, match=r"there is no figure 'final'; expected one of .*overview"):
        loaded.figure("final")


def test_a_table_may_be_changed(saved: Path) -> None:
    found = initlab.load_sweep(saved)
    found.metrics["val/loss"] = 0.0
    assert (found.metrics["val/loss"] == 0).all()
    pd.testing.assert_frame_equal(found.summary, initlab.load_sweep(saved).summary)


def test_what_is_no_sweep_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raw: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for what, error, message in [
        ("nowhere", ValueError, "nowhere is neither a folder nor the id of a run"),
        (raw, FileNotFoundError, "holds no replicas.csv, which a sweep leaves in its folder"),
        ("0" * 32, OSError, f"there is no tracking store at {tmp_path}/mlflow.db"),
    ]:
        with pytest.raises(error, match=message) as raised:
            initlab.load_sweep(what)
        assert "\n" not in str(raised.value)


def test_importing_initlab_imports_nothing_else() -> None:
    """`initlab --help` answers at once."""
    heavy = "{'mlflow', 'numpy', 'pandas', 'torch'} & {*sys.modules}"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, initlab.cli; assert callable(initlab.load_sweep); print({heavy})"],
        env=environment(),
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert done.stdout == "set()\n"


def test_the_page_as_it_stands(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/api.md, typed into one session beside a sweep's folder."""
    monkeypatch.chdir(saved.parent)
    code = blocks("docs/api.md", "python")
    assert code
    session: dict[str, object] = {}
    for block in code:
        exec(block, session)
